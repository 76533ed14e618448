"""What is predicted from the score: its classes and their names."""

import dataclasses
from typing import Literal

import numpy as np

CLASS_NAMES = {
    "three_class": ("negative", "neutral", "positive"),
    "seven_class": ("-3", "-2", "-1", "0", "1", "2", "3"),
    "regression": ("score",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A task and its labels; see `msa_jax.config.Task` for the fields' meaning."""

    kind: Literal["three_class", "seven_class", "regression"]
    neutral: Literal["closed", "right_closed"] = "closed"

    @property
    def is_regression(self) -> bool:
        """Whether the score itself is predicted."""
        return self.kind == "regression"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; for regression, of the one output."""
        return CLASS_NAMES[self.kind]

    @property
    def num_outputs(self) -> int:
        """Outputs K of the classifier; 1 for regression."""
        return len(self.class_names)

    def labels(self, scores: np.ndarray) -> np.ndarray:
        """Classes [N] int32 of scores [N]; for regression those of `three_class`, unused."""
        if self.kind == "seven_class":
            return seven_class(scores)
        return three_class(scores, self.neutral)


def three_class(scores: np.ndarray, neutral: str = "closed") -> np.ndarray:
    """0 negative, 1 neutral, 2 positive; arXiv 2501.08085, section on data.

    Args:
      scores: [N] in [-3, 3]. Means of three annotators, stored as float32: rounded to 4 decimals
        first, so that a stored 1.0000001 is the 1 it stands for.
      neutral: closed calls [-1, 1] neutral, as written; right_closed (-1, 1], as its figures
        suggest.
    """
    scores = np.round(np.asarray(scores, np.float64), 4)
    negative = scores < -1 if neutral == "closed" else scores <= -1
    return (1 - negative.astype(np.int32) + (scores > 1)).astype(np.int32)


def seven_class(scores: np.ndarray) -> np.ndarray:
    """0 to 6: the score clipped to [-3, 3] and rounded half to even, plus 3 (MMSA's Mult_acc_7)."""
    return (np.rint(np.clip(scores, -3, 3)) + 3).astype(np.int32)
