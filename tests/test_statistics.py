import time
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from msa_jax import metrics, statistics
from msa_jax.statistics import bootstrap, compare, holm, over_seeds


def _videos(rng: np.random.Generator, count: int, mean_size: int) -> np.ndarray:
    """The video of each example; sizes vary as those of MOSI and MOSEI do."""
    return np.repeat(np.arange(count), 1 + rng.geometric(1 / (mean_size - 1), count))


def _margins(
    rng: np.random.Generator, videos: np.ndarray, seeds: int, seed_effect: float, own: float
) -> Callable[[], np.ndarray]:
    """Makes systems [S, N] that are right where positive, on the same videos and utterances.

    Videos and utterances are harder for all systems alike; `own` is how much a system's videos are
    harder for it alone; seeds differ as a whole, by video and by utterance.
    """
    count = videos.max() + 1
    shared = 0.5 + rng.normal(0, 0.6, count)[videos] + rng.normal(0, 0.8, len(videos))

    def system() -> np.ndarray:
        alone = rng.normal(0, own, count) + rng.normal(0, 0.2, (seeds, count))
        noise = rng.normal(0, 0.7, (seeds, len(videos)))
        return shared + alone[:, videos] + rng.normal(0, seed_effect, (seeds, 1)) + noise

    return system


# bootstrap


def test_whole_videos_are_drawn() -> None:
    values = np.repeat([0.0, 1.0], 50)

    def mean(seed: int, rows: np.ndarray) -> metrics.Metrics:
        return {"mean": float(values[rows].mean())}

    assert bootstrap(mean, np.repeat([0, 1], 50))["mean"] == (0.0, 1.0)
    low, high = bootstrap(mean, np.arange(100))["mean"]
    assert 0.38 < low < 0.45
    assert 0.55 < high < 0.62


def test_whole_seeds_are_drawn_and_averaged() -> None:
    def of_seed(seed: int, rows: np.ndarray) -> metrics.Metrics:
        return {"seed": float(seed)}

    drawn = np.random.default_rng(0).integers(5, size=(100_000, 4)).mean(axis=1)
    interval = bootstrap(of_seed, np.arange(9), num_seeds=5, resamples=4000)["seed"]
    assert interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.26)
    assert np.std(drawn) == pytest.approx(np.std(range(5), ddof=1) / np.sqrt(5), rel=0.01)


def test_the_names_and_the_order_of_videos_do_not_matter() -> None:
    values = np.random.default_rng(0).normal(size=60)

    def mean(seed: int, rows: np.ndarray) -> metrics.Metrics:
        return {"mean": float(values[rows].mean())}

    videos = np.repeat(np.arange(12), 5)
    named = np.array([f"video_{v:02}" for v in videos])
    assert bootstrap(mean, videos, resamples=50) == bootstrap(mean, named, resamples=50)
    assert bootstrap(mean, videos, resamples=50) != bootstrap(mean, videos, resamples=50, seed=1)


def test_undefined_draws_are_left_out_and_an_undefined_metric_is_nan() -> None:
    rare = np.array([1.0, 2.0, np.nan, np.nan])

    def statistic(seed: int, rows: np.ndarray) -> metrics.Metrics:
        defined = rare[rows][~np.isnan(rare[rows])]
        return {
            "rare": float(defined.mean()) if len(defined) else float("nan"),
            "collapsed": float("nan") if seed == 1 else 1.0,
        }

    intervals = bootstrap(statistic, np.arange(4), num_seeds=3)
    assert intervals["rare"] == (1.0, 2.0)
    assert np.isnan(intervals["collapsed"]).all()


@pytest.mark.parametrize("wrong", [{"groups": np.zeros(0)}, {"num_seeds": 0}, {"resamples": 0}])
def test_a_bootstrap_of_nothing_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="bootstrap needs examples, seeds and draws"):
        bootstrap(**{"statistic": lambda s, rows: {}, "groups": np.arange(3), **wrong})


def test_ten_seeds_of_the_largest_test_split_take_seconds() -> None:
    rng = np.random.default_rng(0)
    videos = _videos(rng, 676, 7)
    scores = rng.integers(-9, 10, len(videos)) / 3
    predicted = scores + rng.normal(size=(10, len(videos)))
    began = time.monotonic()
    intervals = bootstrap(
        lambda seed, rows: metrics.regression(scores[rows], predicted[seed][rows]),
        videos,
        num_seeds=10,
        resamples=100,
    )
    assert time.monotonic() - began < 5
    assert intervals["mae"][0] < np.mean(np.abs(scores - predicted)) < intervals["mae"][1]


def _coverage(seeds: int, by_video: bool, seed_effect: float = 0.05, trials: int = 200) -> float:
    """How often the interval of an accuracy holds the expected accuracy."""
    rng, covered = np.random.default_rng(0), 0
    spread = np.sqrt(0.6**2 + 0.8**2 + 0.2**2 + 0.7**2 + seed_effect**2)
    truth = scipy.stats.norm.cdf(0.5 / spread)
    for trial in range(trials):
        videos = _videos(rng, 60, 8)
        right = _margins(rng, videos, seeds, seed_effect, 0.0)() > 0
        low, high = bootstrap(
            lambda s, rows, right=right: {"accuracy": float(right[s][rows].mean())},
            videos if by_video else np.arange(len(videos)),
            num_seeds=seeds,
            resamples=150,
            seed=trial,
        )["accuracy"]
        covered += low <= truth <= high
    return covered / trials


@pytest.mark.parametrize(
    ("seeds", "seed_effect", "least"),
    [
        (1, 0.0, 0.90),
        (5, 0.05, 0.90),  # accuracies of the seeds 1.6 points apart (standard deviation)
        (5, 0.2, 0.85),  # 6 points: too few seeds for percentiles, as the docstring says
    ],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(
    seeds: int, seed_effect: float, least: float
) -> None:
    assert least <= _coverage(seeds, by_video=True, seed_effect=seed_effect) <= 0.99


def test_the_interval_of_one_seed_is_too_narrow_for_the_system() -> None:
    assert _coverage(1, by_video=True, seed_effect=0.3, trials=100) < 0.85


def test_utterances_taken_as_independent_cover_it_too_rarely() -> None:
    assert _coverage(1, by_video=False, seed_effect=0.0) < 0.87


# over_seeds


def test_spread_equals_scipy() -> None:
    values = np.random.default_rng(0).normal(size=7)
    spread = over_seeds(values)
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (spread.low, spread.high) == pytest.approx((theirs.low, theirs.high))
    assert (spread.mean, spread.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


def test_t_interval_covers_the_mean_over_seeds() -> None:
    draws = np.random.default_rng(0).normal(0.7, 0.01, (3000, 5))
    covered = [s.low <= 0.7 <= s.high for s in map(over_seeds, draws)]
    assert 0.935 <= np.mean(covered) <= 0.965


def test_one_seed_has_no_spread_and_equal_seeds_none_either() -> None:
    alone = over_seeds(np.array([0.5]))
    assert alone.mean == 0.5
    assert np.isnan([alone.std, alone.low, alone.high]).all()
    same = over_seeds(np.array([0.5, 0.5]))
    assert (same.std, same.low, same.high) == (0.0, 0.5, 0.5)


def test_an_undefined_seed_makes_the_spread_undefined() -> None:
    spread = over_seeds(np.array([0.5, np.nan, 0.6]))
    assert np.isnan([spread.mean, spread.std, spread.low, spread.high]).all()


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros((2, 2)), np.array(1.0)])
def test_values_that_are_not_one_row_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one value a seed"):
        over_seeds(values)


# compare


def test_one_seed_and_one_example_a_video_is_the_paired_t_test() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 1, 40))
    ours = compare(first, second, np.arange(40))
    theirs = scipy.stats.ttest_rel(first[0], second[0])
    interval = theirs.confidence_interval(0.95)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))


def test_seeds_alone_varying_is_welchs_t_test() -> None:
    """Where all examples of a seed are alike, only the seeds are witnesses."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 1)), rng.normal(1, 3, size=(8, 1))
    ours = compare(first.repeat(30, 1), second.repeat(30, 1), np.arange(30) // 3)
    theirs = scipy.stats.ttest_ind(first[:, 0], second[:, 0], equal_var=False)
    assert ours.p_value == pytest.approx(theirs.pvalue)


def test_swapping_the_systems_swaps_the_signs() -> None:
    rng = np.random.default_rng(0)
    first, second, videos = rng.random((5, 60)), rng.random((3, 60)), np.arange(60) // 4
    there, back = compare(first, second, videos), compare(second, first, videos)
    assert (there.difference, there.low) == pytest.approx((-back.difference, -back.high))
    assert there.difference == pytest.approx(first.mean() - second.mean())
    assert there.p_value == pytest.approx(back.p_value)


def test_the_interval_leaves_out_zero_exactly_where_the_p_value_is_small() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        result = compare(rng.random((4, 40)), rng.random((4, 40)) + 0.1, np.arange(40) // 2)
        assert (result.low > 0 or result.high < 0) == (result.p_value < 0.05)


def test_where_nothing_varies_nothing_is_claimed() -> None:
    videos = np.arange(6) // 2
    same = compare(np.full((2, 6), 0.1), np.full((3, 6), 0.1), videos)
    assert same.difference == pytest.approx(0)
    assert same.p_value == 1.0
    apart = compare(np.full((2, 6), 0.1), np.full((3, 6), 0.7), videos)
    assert np.isnan(apart.p_value)
    values = np.random.default_rng(0).random((4, 6))
    assert compare(values, values, videos).p_value == 1.0


@pytest.mark.parametrize(
    ("first", "second", "groups", "words"),
    [
        ((2, 4), (2, 5), 4, "same N examples"),
        ((2, 4), (2, 4), 5, "same N examples"),
        ((4,), (2, 4), 4, r"takes \[S1, N\]"),
        ((0, 4), (2, 4), 4, r"takes \[S1, N\]"),
        ((2, 1), (2, 1), 1, "two videos"),
        ((2, 0), (2, 0), 0, "two videos"),
    ],
)
def test_what_does_not_fit_is_refused(
    first: tuple[int, ...], second: tuple[int, ...], groups: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        compare(np.zeros(first), np.zeros(second), np.arange(groups))


def _rejections(
    test: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    *,
    seeds: int = 5,
    videos: int = 90,
    size: int = 12,
    seed_effect: float = 0.05,
    own: float = 0.2,
    better: float = 0.0,
    trials: int = 800,
) -> float:
    """How often `test` calls two systems different at 5 %; they are equal unless one is better."""
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(trials):
        drawn = _videos(rng, videos, size)
        system = _margins(rng, drawn, seeds, seed_effect, own)
        first, second = (system() + better > 0).astype(float), (system() > 0).astype(float)
        rejected += test(first, second, drawn) < 0.05
    return rejected / trials


def _compare(first: np.ndarray, second: np.ndarray, videos: np.ndarray) -> float:
    return compare(first, second, videos).p_value


@pytest.mark.parametrize(
    "setting",
    [
        {"seed_effect": 0.0, "own": 0.0},  # one system twice: only chance differs
        {"seed_effect": 0.2, "own": 0.0},  # one system twice, seeds that differ much
        {"seed_effect": 0.05, "own": 0.2},  # two systems, equally good over all videos
        {"seed_effect": 0.05, "own": 0.2, "seeds": 10},
        {"seed_effect": 0.05, "own": 0.2, "videos": 700, "size": 7, "trials": 300},
    ],
)
def test_equal_systems_are_called_different_about_once_in_twenty(setting: dict) -> None:
    assert 0.02 <= _rejections(_compare, **setting) <= 0.08


def test_a_real_difference_is_found() -> None:
    assert _rejections(_compare, better=0.25, trials=100) > 0.9


def test_tests_that_forget_videos_or_seeds_call_equal_systems_different() -> None:
    def over_utterances(first: np.ndarray, second: np.ndarray, videos: np.ndarray) -> float:
        return scipy.stats.ttest_1samp(first.mean(axis=0) - second.mean(axis=0), 0).pvalue

    def over_seeds_alone(first: np.ndarray, second: np.ndarray, videos: np.ndarray) -> float:
        return scipy.stats.ttest_ind(first.mean(axis=1), second.mean(axis=1)).pvalue

    def over_videos_alone(first: np.ndarray, second: np.ndarray, videos: np.ndarray) -> float:
        return compare(first[:1], second[:1], videos).p_value

    assert _rejections(over_utterances, trials=100) > 0.2
    assert _rejections(over_seeds_alone, own=0.4, trials=100) > 0.2
    assert _rejections(over_videos_alone, seed_effect=0.3, trials=100) > 0.2


# holm


def test_holm_rejects_as_the_step_down_procedure_does() -> None:
    """Independent: Holm's own wording, which tests one hypothesis after the other at a level."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        p_values = rng.random(6) ** 3
        adjusted = holm(p_values)
        for level in (0.01, 0.05, 0.2, 0.5):
            rejected = set()
            for done, index in enumerate(np.argsort(p_values)):
                if p_values[index] > level / (6 - done):
                    break
                rejected.add(int(index))
            assert rejected == set(np.flatnonzero(adjusted <= level).tolist())


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1, 1])
    np.testing.assert_allclose(holm(np.array([0.04, np.nan, 0.01])), [0.04, np.nan, 0.02])
    assert holm(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("wrong", [[-0.1], [1.1], [[0.5]]])
def test_holm_refuses_what_is_no_p_value(wrong: list) -> None:
    with pytest.raises(ValueError, match="p-values in"):
        holm(np.array(wrong))


def test_nothing_here_is_drawn_from_global_state() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    statistics.bootstrap(lambda s, rows: {"mean": float(rows.mean())}, np.arange(5), resamples=5)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
