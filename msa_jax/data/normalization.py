"""Z-scores by column, fitted on the train split's real frames alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from msa_jax.data.store import Sequences, Split


@dataclasses.dataclass(frozen=True)
class Normalization:
    """`(frame - mean) * scale` by modality and column; no modality means no change.

    Attributes:
      mean, scale: `{modality: [C] float64}`. The scale of a constant column is 0: it tells nothing.
    """

    mean: Mapping[str, np.ndarray]
    scale: Mapping[str, np.ndarray]

    def apply(self, split: Split) -> Split:
        """`split` with normalised frames."""
        if not self.mean:
            return split
        return dataclasses.replace(
            split, sequences={m: self._normalized(m, s) for m, s in split.sequences.items()}
        )

    def _normalized(self, modality: str, sequences: Sequences) -> Sequences:
        frames = (sequences.frames - self.mean[modality]) * self.scale[modality]
        return dataclasses.replace(sequences, frames=frames.astype(np.float32))

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


def fit(train: Split) -> Normalization:
    """Statistics of the real frames of `train`; float64, so that large offsets lose no digits."""
    mean, scale = {}, {}
    for modality, sequences in train.sequences.items():
        frames = sequences.frames.astype(np.float64)
        mean[modality] = frames.mean(axis=0) if len(frames) else np.zeros(frames.shape[1])
        deviation = frames.std(axis=0) if len(frames) else np.zeros(frames.shape[1])
        # Relative to the mean, where float32 rounds: a column of small numbers is not constant.
        constant = deviation <= 1e-6 * np.abs(mean[modality])
        scale[modality] = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation))
    return Normalization(mean, scale)
