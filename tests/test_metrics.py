import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as reference

from msa_jax import metrics
from msa_jax.tasks import Task

SCORES = np.random.default_rng(0).integers(-9, 10, 400) / 3
PREDICTED = SCORES * 0.6 + np.random.default_rng(1).normal(0, 1, 400)


@pytest.mark.parametrize("seed", range(5))
def test_classification_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 3, 60), rng.integers(0, 5, 60)
    ours = metrics.classification(labels, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that are never true
        theirs = {
            "accuracy": reference.accuracy_score(labels, predicted),
            "macro_f1": reference.f1_score(labels, predicted, average="macro"),
            "weighted_f1": reference.f1_score(labels, predicted, average="weighted"),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        }
    assert ours == pytest.approx(theirs)


def test_regression_equals_independent_definitions() -> None:
    ours = metrics.regression(SCORES, PREDICTED)
    nonzero = SCORES != 0
    theirs = {
        "mae": reference.mean_absolute_error(SCORES, PREDICTED),
        "corr": scipy.stats.pearsonr(SCORES, PREDICTED).statistic,
        "acc2_has0": reference.accuracy_score(SCORES >= 0, PREDICTED >= 0),
        "f1_has0": reference.f1_score(SCORES >= 0, PREDICTED >= 0, average="weighted"),
        "acc2_non0": reference.accuracy_score(SCORES[nonzero] > 0, PREDICTED[nonzero] > 0),
        "f1_non0": reference.f1_score(
            SCORES[nonzero] > 0, PREDICTED[nonzero] > 0, average="weighted"
        ),
    }
    for limit in (7, 5, 3):
        bound = limit // 2
        rounded = [[round(max(-bound, min(bound, v))) for v in x] for x in (SCORES, PREDICTED)]
        theirs[f"acc{limit}"] = reference.accuracy_score(*rounded)
    assert ours == pytest.approx(theirs)


def test_published_constants_of_the_mosei_test_fold() -> None:
    """LITERATURE: always positive on 28.96 % negative, 21.99 % zero, 49.06 % positive."""
    scores = np.repeat([-1.0, 0.0, 1.0], [1350, 1025, 2287])
    constant = metrics.regression(scores, np.ones(len(scores)))
    assert constant["acc2_non0"] == pytest.approx(0.6288, abs=1e-4)
    assert constant["f1_non0"] == pytest.approx(0.4855, abs=1e-4)
    assert constant["acc2_has0"] == pytest.approx(0.7104, abs=1e-4)
    assert constant["f1_has0"] == pytest.approx(0.5901, abs=1e-4)


def test_weighted_f1_takes_truth_first() -> None:
    labels, predicted = np.array([0, 0, 0, 1]), np.array([1, 1, 1, 1])
    assert metrics.classification(labels, predicted)["weighted_f1"] == pytest.approx(0.1)
    assert metrics.classification(predicted, labels)["weighted_f1"] == pytest.approx(0.4)


def test_zeros_are_non_negative_and_left_out_of_non0() -> None:
    result = metrics.regression(np.array([0.0, 0.0, -1.0]), np.array([0.0, -0.1, -0.1]))
    assert result["acc2_has0"] == pytest.approx(2 / 3)
    assert result["acc2_non0"] == 1.0


def test_predictions_count_unclipped_in_mae() -> None:
    assert metrics.regression(np.array([3.0, -3.0]), np.array([5.0, -3.0]))["mae"] == 1.0


def test_undefined_metrics_are_nan() -> None:
    constant = metrics.regression(SCORES, np.full(len(SCORES), 0.3))
    assert np.isnan(constant["corr"])
    assert np.isnan(metrics.regression(np.zeros(3), np.ones(3))["acc2_non0"])


def test_better_and_worse() -> None:
    assert metrics.is_better("mae", 0.5, 0.6)
    assert metrics.is_better("accuracy", 0.6, 0.5)
    assert not metrics.is_better("accuracy", 0.5, 0.5)
    assert not metrics.is_better("corr", float("nan"), 0.1)
    assert metrics.is_better("corr", 0.1, float("nan"))


def test_majority_is_learnt_from_train_alone() -> None:
    task = Task(kind="three_class")
    fitted = metrics.fit_baselines(task, np.array([2.0, 2.0, 0.0]))
    row = metrics.of_baselines(task, fitted, np.array([0.0, 0.0, 0.0, 2.0]))["majority"]
    assert row["accuracy"] == 0.25


def test_regression_baselines() -> None:
    task = Task(kind="regression")
    fitted = metrics.fit_baselines(task, np.array([-3.0, 1.0, 1.0, 1.0, 2.0]))
    test = np.array([1.0, 1.0, -1.0, 0.0])
    rows = metrics.of_baselines(task, fitted, test)
    assert rows["median"]["mae"] == pytest.approx(0.75)
    assert rows["best_constant"]["acc7"] == 0.5
    assert rows["best_constant"]["acc2_has0"] == 0.75
    assert np.isnan(rows["best_constant"]["corr"])


def test_bootstrap_draws_whole_videos() -> None:
    values = np.repeat([0.0, 1.0], 50)
    by_video = np.repeat([0, 1], 50)

    def mean(rows: np.ndarray) -> dict[str, float]:
        return {"mean": float(values[rows].mean())}

    assert metrics.bootstrap(mean, by_video)["mean"] == (0.0, 1.0)
    low, high = metrics.bootstrap(mean, np.arange(100))["mean"]
    assert 0.38 < low < 0.45
    assert 0.55 < high < 0.62


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        hits = rng.random(150) < 0.7
        interval = metrics.bootstrap(
            lambda rows, hits=hits: {"accuracy": float(hits[rows].mean())},
            np.arange(150),
            resamples=300,
            seed=trial,
        )["accuracy"]
        covered += interval[0] <= 0.7 <= interval[1]
    assert 0.90 <= covered / 200 <= 0.98
