"""Sentiment as published files have it: what is clipped to the range, and what is no such score.

Raw labels of CMU-MOSEI, means of three annotators, go up to 5 (15/3) in a few places, and the field
clips them. Anything beyond is of another scale, which clipping would make nonsense of.
"""

import numpy as np

from msa_jax.data.schema import SCORE_RANGE
from msa_jax.data.sources.columns import counted

_LARGEST_RAW = 5.0


def wrong(scores: np.ndarray) -> np.ndarray:
    """The rows of scores [N] that are outside [-5, 5] or not a number."""
    with np.errstate(invalid="ignore"):  # a NaN may be of the kind that warns
        return np.flatnonzero(~(np.abs(scores.astype(np.float64)) <= _LARGEST_RAW))


def clip(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N], none of them wrong, within [-3, 3], and the rows that were not."""
    low, high = SCORE_RANGE
    return np.clip(scores, low, high), np.flatnonzero((scores < low) | (scores > high))


def note(number: int, shown: str) -> str:
    """What a report says of clipped scores, some of which are shown."""
    low, high = SCORE_RANGE
    count = counted(number, "score was", "scores were")
    return f"{count} clipped to [{low:g}, {high:g}]: {shown}."
