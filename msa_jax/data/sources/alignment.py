"""Word-level alignment: frames to words, words to segments.

It follows the CMU-MultimodalSDK (mmsdk/mmdatasdk/dataset/dataset.py, `align`), which averages what
overlaps a word and gives a segment every word that overlaps it. We differ on purpose:
  - non-finite values are left out of an average, column by column; the SDK averages them in;
  - a word belongs to a segment by its midpoint, and where two segments overlap only in part, they
    part in the middle of what they share. CMU-MOSEI's segments are padded by half a second on
    either side, so with the SDK neighbours hold each other's words. A segment that holds no
    midpoint but lies within a word has that word: one of CMU-MOSI's is an instant;
  - very short words are kept; the SDK drops those under a millisecond.

Intervals are spans [n, 2] float32, in seconds, half-open. Single precision throughout: files store
the same instants as float32 or float64, and spans that touch must not overlap by a rounding error.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordMeans:
    """What a sequence says at each word.

    Attributes:
      values: [W, C] float32, finite; zeros where there is nothing to average.
      frames: [W] how many frames overlap each word.
      non_finite: [W] how many of their values were left out.
    """

    values: np.ndarray
    frames: np.ndarray
    non_finite: np.ndarray


def in_time_order(intervals: np.ndarray) -> np.ndarray:
    """The rows [n] of intervals [n, 2] by start, then end; equal intervals keep their order."""
    return np.lexsort((intervals[:, 1], intervals[:, 0]))


def spans(intervals: np.ndarray) -> np.ndarray:
    """Half-open spans [n, 2] of finite float32 intervals [n, 2].

    An interval without length, or that ends before it starts, becomes the shortest span from its
    start: it overlaps whatever holds that instant.
    """
    start, end = intervals.T
    return np.stack([start, np.maximum(end, np.nextafter(start, np.float32(np.inf)))], axis=1)


def mean_over_words(features: np.ndarray, frames: np.ndarray, words: np.ndarray) -> WordMeans:
    """Averages the frames that overlap each word: start < word's end and end > word's start.

    A sequence with the very spans of the words gives each word its own row, even where words
    overlap one another.

    Args:
      features: [n, C] float32.
      frames: their spans [n, 2], in time order.
      words: spans [W, 2], in time order.
    """
    starts, ends = frames.T
    if np.array_equal(frames, words):
        first = np.arange(len(words))
        last = first + 1
        ends = np.full(len(words), np.inf, np.float32)
    else:
        # The frame that reaches furthest so far: from the first that reaches into the word, a
        # range holds all that overlap it.
        reach = np.maximum.accumulate(ends)
        last = np.searchsorted(starts, words[:, 1], "left")
        first = np.minimum(np.searchsorted(reach, words[:, 0], "right"), last)
    finite = np.isfinite(features)
    sums, counts = _sums(np.where(finite, features, 0), first, last, ends, words[:, 0])
    used = np.repeat(counts[:, None], features.shape[1], axis=1)
    damaged = np.flatnonzero(~finite.all(axis=0))
    if damaged.size:
        whole = finite[:, damaged].astype(np.float32)
        used[:, damaged] = _sums(whole, first, last, ends, words[:, 0])[0]
    return WordMeans(
        values=(sums / np.maximum(used, 1)).astype(np.float32),
        frames=counts,
        non_finite=(counts[:, None] - used).sum(axis=1),
    )


def words_of_segments(words: np.ndarray, segments: np.ndarray) -> list[np.ndarray]:
    """For each segment the rows of the words that are its own, in order.

    Those are the words whose midpoint it holds or, if there are none, the word it lies within. A
    word is in two segments only if one of them lies within the other, or within the word: in
    CMU-MOSI the same words are labelled twice there, alone and with what follows.

    Args:
      words: spans [W, 2].
      segments: spans [S, 2], in time order.
    """
    low, high = segments[:, 0].copy(), segments[:, 1].copy()
    for i, (start, end) in enumerate(segments):
        later = np.arange(i + 1, np.searchsorted(segments[:, 0], end, "left"))
        later = later[(segments[later, 0] > start) & (segments[later, 1] > end)]
        cuts = (segments[later, 0] + end) / 2
        low[later] = np.maximum(low[later], cuts)
        high[i] = min(high[i], cuts.min(initial=np.inf))
    midpoints = words.mean(axis=1)
    found = []
    for start, end, (whole_start, whole_end) in zip(low, high, segments, strict=True):
        own = (midpoints >= start) & (midpoints < end)
        if not own.any():
            own = (words[:, 0] <= whole_start) & (words[:, 1] >= whole_end)
        found.append(np.flatnonzero(own))
    return found


def _sums(
    values: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    ends: np.ndarray,
    word_starts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums [W, C] float64 of rows first to last that end after the word starts; counts [W].

    Summed range by range: a running total would let one huge value swallow all that follows it.
    """
    if not len(first):
        return np.zeros((0, values.shape[1])), np.zeros(0, np.int64)
    if np.all(ends[1:] >= ends[:-1]):
        # A row of zeros, since a range may begin past the last frame.
        padded = np.concatenate([values, np.zeros((1, values.shape[1]), values.dtype)])
        bounds = np.stack([first, last], axis=1).ravel()
        sums = np.add.reduceat(padded, bounds, axis=0, dtype=np.float64)[::2]
        return np.where((first < last)[:, None], sums, 0), last - first
    # Frames within frames, which is rare: a range then also holds some that ended before.
    chosen = [
        start + np.flatnonzero(ends[start:end] > word)
        for start, end, word in zip(first, last, word_starts, strict=True)
    ]
    sums = np.stack([values[rows].sum(axis=0, dtype=np.float64) for rows in chosen])
    return sums, np.array([len(rows) for rows in chosen])
