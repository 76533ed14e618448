"""Frames to words and words to segments, against slow and obvious loops."""

import numpy as np
import pytest

from msa_jax.data.sources import alignment


def slow_means(features: np.ndarray, frames: np.ndarray, words: np.ndarray) -> np.ndarray:
    means = np.zeros((len(words), features.shape[1]))
    for w, (word_start, word_end) in enumerate(words):
        for c in range(features.shape[1]):
            values = [
                float(features[f, c])
                for f, (start, end) in enumerate(frames)
                if start < word_end and end > word_start and np.isfinite(features[f, c])
            ]
            means[w, c] = sum(values) / len(values) if values else 0
    return means


def intervals(rng: np.random.Generator, count: int, longest: float) -> np.ndarray:
    starts = rng.uniform(0, 10, count).round(1)
    found = np.stack([starts, starts + rng.uniform(0.1, longest, count).round(1)], axis=1)
    found = found.astype(np.float32)
    return alignment.spans(found[alignment.in_time_order(found)])


@pytest.mark.parametrize("longest", [0.2, 2.0, 9.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_words_value_is_the_mean_of_the_finite_values_that_overlap_it(
    seed: int, longest: float
) -> None:
    rng = np.random.default_rng(seed)
    words, frames = intervals(rng, 30, 1.5), intervals(rng, 80, longest)
    features = rng.standard_normal((80, 5)).astype(np.float32)
    features[rng.random(features.shape) < 0.1] = np.nan
    features[rng.random(80) < 0.3, 2] = -np.inf
    means = alignment.mean_over_words(features, frames, words)
    np.testing.assert_allclose(means.values, slow_means(features, frames, words), atol=1e-5)
    overlap = (frames[None, :, 0] < words[:, None, 1]) & (frames[None, :, 1] > words[:, None, 0])
    np.testing.assert_array_equal(means.frames, overlap.sum(axis=1))
    lost = overlap.astype(int) @ (~np.isfinite(features)).sum(axis=1)
    np.testing.assert_array_equal(means.non_finite, lost)
    assert means.values.dtype == np.float32


def test_frames_that_only_touch_a_word_do_not_count() -> None:
    frames = np.array([[0, 1], [1, 2], [2, 3]], np.float32)
    means = alignment.mean_over_words(
        np.array([[1], [2], [4]], np.float32), frames, np.array([[1, 2], [5, 6]], np.float32)
    )
    assert means.values.tolist() == [[2], [0]]
    assert means.frames.tolist() == [1, 0]


def test_a_huge_value_spoils_no_other_word() -> None:
    frames = np.array([[0, 1], [1, 2], [2, 3]], np.float32)
    features = np.array([[3e38], [1.5], [-2.25]], np.float32)
    means = alignment.mean_over_words(features, frames, frames[1:])
    assert means.values.tolist() == [[1.5], [-2.25]]


def test_a_sequence_with_the_words_spans_gives_each_word_its_own_row() -> None:
    given = np.array([[0, 2], [1, 3], [1, 3], [3, 3], [3, 4]], np.float32)
    words = alignment.spans(given)
    features = np.arange(10, dtype=np.float32).reshape(5, 2) / 7
    means = alignment.mean_over_words(features, words, words)
    np.testing.assert_array_equal(means.values, features)


def test_an_instant_overlaps_the_interval_that_holds_it() -> None:
    words = alignment.spans(np.array([[1, 1], [1.5, 1.25]], np.float32))
    frames = np.array([[0, 1], [1, 2]], np.float32)
    means = alignment.mean_over_words(np.array([[5], [6]], np.float32), frames, words)
    assert means.values.tolist() == [[6], [6]]


def test_double_precision_makes_no_neighbours_overlap() -> None:
    edges = np.arange(1, 50) * 0.1
    single = alignment.spans(np.stack([edges[:-1], edges[1:]], axis=1).astype(np.float32))
    features = np.arange(48, dtype=np.float32)[:, None]
    means = alignment.mean_over_words(features[:-1], single[:-1], single)
    np.testing.assert_array_equal(means.values[:-1], features[:-1])
    assert means.frames[-1] == 0


def test_no_word_is_in_two_segments_that_lie_side_by_side() -> None:
    words = np.stack([np.arange(20), np.arange(20) + 1], axis=1).astype(np.float32)
    padded = np.array([[0, 6], [5, 11], [10, 30]], np.float32)
    rows = alignment.words_of_segments(words, padded)
    assert [row.tolist() for row in rows] == [
        list(range(0, 5)),
        list(range(5, 10)),
        list(range(10, 20)),
    ]


def test_a_segment_within_another_shares_its_words() -> None:
    words = np.stack([np.arange(6), np.arange(6) + 1], axis=1).astype(np.float32)
    segments = np.array([[0, 3], [0, 5], [0, 5], [2, 3]], np.float32)
    rows = alignment.words_of_segments(words, segments)
    assert [row.tolist() for row in rows] == [[0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [2]]


def test_a_segment_within_a_word_has_that_word() -> None:
    words = np.array([[0, 1], [1, 4], [5, 9]], np.float32)
    segments = alignment.spans(np.array([[1, 1], [1.5, 2], [3.5, 6], [4.5, 4.5]], np.float32))
    rows = alignment.words_of_segments(words, segments)
    assert [row.tolist() for row in rows] == [[1], [1], [], []]


@pytest.mark.parametrize(("words", "segments"), [(0, 2), (3, 0)])
def test_nothing_to_align_is_no_error(words: int, segments: int) -> None:
    spans = np.stack([np.arange(words), np.arange(words) + 1], axis=1).astype(np.float32)
    held = np.zeros((segments, 2), np.float32)
    assert [len(row) for row in alignment.words_of_segments(spans, held)] == [0] * segments
    frames = np.array([[0, 9]], np.float32)
    means = alignment.mean_over_words(np.ones((1, 4), np.float32), frames, spans)
    assert means.values.shape == (words, 4)
