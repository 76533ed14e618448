"""Buckets of length, and which rows make a batch."""

import csv
import gzip

import numpy as np
import pytest

from msa_jax.config import Data
from msa_jax.data import buckets, order, synthetic, units
from tests.conftest import SHARED


def _lengths(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    text = generator.integers(1, 51, count)
    return {"text": text, "audio": np.minimum(500, text * 9 + generator.integers(0, 40, count))}


def _of(assigned: np.ndarray) -> tuple[units.Units, buckets.Buckets]:
    """Utterances that fall into the buckets `assigned` [N]."""
    lengths = {"text": assigned + 1}
    rising = tuple({"text": each + 1} for each in range(assigned.max() + 1))
    return units.of_utterances(lengths), buckets.Buckets(rising, (1,) * len(rising))


@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_every_utterance_fits_its_bucket(count: int) -> None:
    lengths = _lengths(500)
    grouped = buckets.fit(units.of_utterances(lengths), count)
    assigned = grouped.assign(units.of_utterances(lengths))
    assert len(grouped.lengths) <= count
    assert set(assigned) <= set(range(len(grouped.lengths)))
    for row, bucket in enumerate(assigned):
        for modality, each in lengths.items():
            assert each[row] <= grouped.lengths[bucket][modality]
    assert grouped.lengths[-1] == {m: each.max() for m, each in lengths.items()}


def test_bounds_are_the_best_there_are() -> None:
    lengths = {"text": np.random.default_rng(0).integers(1, 65, 300)}
    found = buckets.fit(units.of_utterances(lengths), 3)

    def padded(bounds: tuple[int, ...]) -> int:
        edges = np.array(bounds)
        return int(edges[np.searchsorted(edges, lengths["text"])].sum())

    best = min(padded((a, b, 64)) for a in range(1, 63) for b in range(a + 1, 64))
    assert padded(tuple(each["text"] for each in found.lengths)) == best


def test_single_vectors_need_one_bucket_and_do_not_hide_sequences() -> None:
    ones = np.ones(100, int)
    assert buckets.fit(units.of_utterances({"audio": ones}), 4).lengths == ({"audio": 1},)
    text = np.random.default_rng(0).integers(1, 51, 100)
    both = buckets.fit(units.of_utterances({"text": text, "audio": ones}), 4)
    assert [each["audio"] for each in both.lengths] == [1] * 4
    assert both.lengths[0]["text"] < 20


def test_absent_modalities_and_empty_utterances_have_a_place() -> None:
    lengths = {"text": np.array([0, 0, 3]), "audio": np.array([0, 0, 0])}
    grouped = buckets.fit(units.of_utterances(lengths), 4)
    assert grouped.lengths[-1] == {"text": 3, "audio": 1}
    assert (grouped.assign(units.of_utterances(lengths)) >= 0).all()


def _real_share(text: np.ndarray) -> float:
    """Of the frames that the default buckets compute in an epoch, the share that is real."""
    lengths = {"text": np.minimum(text, 50)}
    alone = units.of_utterances(lengths)
    grouped = buckets.fit(alone, Data().buckets)
    drawn = order.TrainOrder(alone, grouped, 32, seed=0)
    computed = sum(
        32 * grouped.lengths[drawn(step).bucket]["text"] for step in range(drawn.steps_per_epoch)
    )
    return float(lengths["text"].sum() / computed)


def test_four_of_five_frames_are_real_at_synthetic_lengths() -> None:
    latents = synthetic.sample_latents(16326, np.random.default_rng(0))
    assert _real_share(latents.lengths) > 0.8


def test_four_of_five_frames_are_real_at_mosei_lengths() -> None:
    path = SHARED / "mosei_segment_labels.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is missing: it holds the real lengths")
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    seconds = np.array([float(row["end"]) - float(row["start"]) for row in rows])
    words = np.maximum(1, np.rint(seconds * synthetic.WORDS_PER_SECOND)).astype(int)
    assert _real_share(words) > 0.8


def test_longer_utterances_of_other_splits_go_to_the_longest_bucket() -> None:
    lengths = _lengths(500)
    grouped = buckets.fit(units.of_utterances(lengths), 4)
    others = {"text": np.array([3, 200, 10]), "audio": np.array([20, 5, 900])}
    holding = grouped.holding(units.of_utterances(others))
    assert holding.lengths[:-1] == grouped.lengths[:-1]
    assert holding.lengths[-1] == {"text": 200, "audio": 900}
    assert holding.assign(units.of_utterances(others)).tolist() == [0, 3, 3]
    alone = units.of_utterances(lengths)
    np.testing.assert_array_equal(holding.assign(alone), grouped.assign(alone))


def test_the_smaller_batch_is_of_any_length() -> None:
    assigned = np.repeat([0, 1, 2], [400, 300, 101])
    drawn = order.TrainOrder(*_of(assigned), 50, seed=0)
    sizes = {}
    for epoch in range(60):
        steps = range(epoch * drawn.steps_per_epoch, (epoch + 1) * drawn.steps_per_epoch)
        (small,) = [s for s in map(drawn, steps) if (s.rows < 0).any()]
        assert (small.rows >= 0).sum() == 1
        sizes[small.bucket] = sizes.get(small.bucket, 0) + 1
    assert set(sizes) == {0, 1, 2}
    assert sizes[0] > sizes[2]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_every_epoch_visits_every_row_once(size: int) -> None:
    assigned = np.random.default_rng(0).integers(0, 3, size)
    drawn = order.TrainOrder(*_of(assigned), 8, seed=3)
    steps = drawn.steps_per_epoch
    epochs = [
        np.concatenate([drawn(epoch * steps + i).rows for i in range(steps)]) for epoch in range(3)
    ]
    for rows in epochs:
        np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(size))
        assert len(rows) == 8 * steps
    if size >= 64:
        assert not np.array_equal(epochs[0], epochs[1])
        assert not np.array_equal(
            order.TrainOrder(*_of(assigned), 8, seed=4)(0).rows, drawn(0).rows
        )


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    assigned = np.random.default_rng(0).integers(0, 3, 100)
    forward, backward = (order.TrainOrder(*_of(assigned), 16, seed=1) for _ in range(2))
    ahead = [forward(step) for step in range(30)]
    for step in reversed(range(30)):
        again = backward(step)
        np.testing.assert_array_equal(again.rows, ahead[step].rows)
        assert again.bucket == ahead[step].bucket


def test_batches_hold_like_lengths_in_no_order() -> None:
    assigned = np.random.default_rng(0).integers(0, 4, 4000)
    drawn = order.TrainOrder(*_of(assigned), 20, seed=0)
    selections = [drawn(step) for step in range(drawn.steps_per_epoch)]
    mixed = [s for s in selections if len(set(assigned[s.rows[s.rows >= 0]])) > 1]
    assert len(mixed) <= 3, "at the borders alone"
    for selection in selections:
        assert assigned[selection.rows[selection.rows >= 0]].max() == selection.bucket
    taken = [selection.bucket for selection in selections]
    assert taken != sorted(taken)


def test_evaluation_takes_every_row_once() -> None:
    assigned = np.random.default_rng(0).integers(0, 3, 45)
    plan = order.EvalOrder(*_of(assigned), 10)
    assert len(plan) == 5
    rows = np.concatenate([plan(index).rows for index in range(5)])
    np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(45))
    assert [plan(index).bucket for index in range(5)] == sorted(plan(i).bucket for i in range(5))
