"""Z-scores by column, fitted on the train split's real frames alone."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Normalization:
    """`(frame - mean) * scale` by modality and column; no modality means no change.

    Attributes:
      mean, scale: `{modality: [C] float64}`. The scale of a constant column is 0: it tells nothing.
    """

    mean: Mapping[str, np.ndarray]
    scale: Mapping[str, np.ndarray]

    def apply(self, modality: str, frames: np.ndarray) -> None:
        """Normalises `frames` [..., C] float32 in place."""
        if modality in self.mean:
            frames -= self.mean[modality].astype(np.float32)
            frames *= self.scale[modality].astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain containers; floats are written in full, so nothing is lost."""
        return {
            m: {"mean": self.mean[m].tolist(), "scale": self.scale[m].tolist()} for m in self.mean
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Normalization":
        """The inverse of `to_json`."""
        return cls(
            mean={m: np.asarray(v["mean"]) for m, v in value.items()},
            scale={m: np.asarray(v["scale"]) for m, v in value.items()},
        )


NONE = Normalization({}, {})
_LEAST = 1e-17  # no value, at most 1e20 (`flat.LARGEST`), overflows float32 when it is scaled


def fit(parts: Iterable[np.ndarray], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale [C] float64 of frames that come in parts [F, C].

    One pass: each part's mean and squared deviations are merged into those so far (Chan, Golub and
    LeVeque 1979), so that large offsets lose no digits.
    """
    count, mean, squares = 0, np.zeros(channels), np.zeros(channels)
    for part in parts:
        if not len(part):
            continue
        frames = part.astype(np.float64)
        part_mean = frames.mean(axis=0)
        total = count + len(frames)
        shift = part_mean - mean
        squares += ((frames - part_mean) ** 2).sum(axis=0)
        squares += shift**2 * (count * len(frames) / total)
        mean = mean + shift * (len(frames) / total)
        count = total
    deviation = np.sqrt(squares / max(count, 1))
    # Relative to the mean, where float32 rounds: a column of small numbers is not constant.
    constant = deviation <= np.maximum(1e-6 * np.abs(mean), _LEAST)
    return mean, np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation))
