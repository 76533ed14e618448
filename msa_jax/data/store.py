"""A split of a prepared dataset as flat arrays: all frames of a modality one after another.

Gathering a padded batch from flat arrays is twenty times as fast as decoding its examples, so the
records are read once, in order, and every batch of every epoch comes from here. What is not finite
is repaired here, and counted, before anything sees it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from msa_jax.data.builders import fingerprint
from msa_jax.data.schema import COLUMNS, SPLITS, mask_key
from msa_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequences:
    """The frames of one modality over a split.

    Attributes:
      frames: [F, C] float32, finite, all utterances one after another.
      offsets: [N + 1]; utterance n has the frames `offsets[n]:offsets[n + 1]`, maybe none.
      repaired: [C] the non-finite values that were replaced by 0, by column.
      cut: frames dropped because an utterance was longer than `max_length`.
    """

    frames: np.ndarray
    offsets: np.ndarray
    repaired: np.ndarray
    cut: int

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each utterance [N]."""
        return np.diff(self.offsets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """The utterances of a split.

    Attributes:
      fingerprint: names the prepared dataset.
      name: train, valid or test.
      sequences: `{modality: Sequences}` in the order in which modalities are joined.
      scores: [N] float32 in [-3, 3].
      ids, video_ids: N names.
    """

    fingerprint: str
    name: str
    sequences: Mapping[str, Sequences]
    scores: np.ndarray
    ids: Sequence[str]
    video_ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def longest(self) -> dict[str, int]:
        """The frames of the longest utterance by modality, at least 1: what a batch must hold."""
        return {m: max(1, int(s.lengths.max(initial=0))) for m, s in self.sequences.items()}

    def gather(self, rows: np.ndarray, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Frames and masks of `rows` [B], padded with zeros at the end to `lengths`.

        Returns:
          `{modality: [B, T, C] float32, modality + "_mask": [B, T] bool, ...}`
        """
        batch: dict[str, np.ndarray] = {}
        for modality, sequences in self.sequences.items():
            steps = np.arange(lengths[modality])
            starts = sequences.offsets[rows][:, None]
            mask = steps < sequences.lengths[rows][:, None]
            index = np.where(mask, starts + steps, 0)
            if len(sequences.frames):
                frames = sequences.frames[index]
                frames[~mask] = 0.0
            else:
                frames = np.zeros((*index.shape, sequences.frames.shape[1]), np.float32)
            batch |= {modality: frames, mask_key(modality): mask}
        return batch

    def summary(self) -> dict[str, Any]:
        """What a person should know about these data, for results.json."""
        return {
            "utterances": len(self),
            "videos": len(set(self.video_ids)),
            "modalities": {
                modality: {
                    "frames": len(sequences.frames),
                    "longest": self.longest[modality],
                    "absent": int((sequences.lengths == 0).sum()),
                    "cut": sequences.cut,
                    "repaired": int(sequences.repaired.sum()),
                    "repaired_columns": {
                        str(c): int(sequences.repaired[c])
                        for c in np.flatnonzero(sequences.repaired)
                    },
                }
                for modality, sequences in self.sequences.items()
            },
        }


def available_splits(builder: tfds.core.DatasetBuilder) -> list[str]:
    """The splits a prepared dataset has, in the order train, valid, test."""
    return [split for split in SPLITS if split in builder.info.splits]


def load(
    builder: tfds.core.DatasetBuilder, split: str, modalities: Sequence[str], max_length: int
) -> Split:
    """Reads a split of a prepared dataset.

    Raises:
      UserError: if the dataset has no such split or modality.
    """
    known = available_splits(builder)
    if split not in known:
        raise UserError(f"{fingerprint(builder)} has no split {split!r}. {nearest(split, known)}")
    present = [name for name in builder.info.features if name not in COLUMNS]
    for modality in modalities:
        if modality not in present:
            raise UserError(
                f"{fingerprint(builder)} has no modality {modality!r}. "
                f"{nearest(modality, present)} config.data.modalities says which are used."
            )
    columns: dict[str, list[Any]] = {"id": [], "video_id": [], "score": []}
    frames: dict[str, list[np.ndarray]] = {m: [] for m in modalities}
    cut = dict.fromkeys(modalities, 0)
    for example in builder.as_data_source(split):
        for name, values in columns.items():
            values.append(example[name])
        for modality in modalities:
            frames[modality].append(example[modality][:max_length])
            cut[modality] += max(0, len(example[modality]) - max_length)
    return Split(
        fingerprint=fingerprint(builder),
        name=split,
        sequences={m: _sequences(frames[m], cut[m]) for m in modalities},
        scores=np.asarray(columns["score"], np.float32),
        ids=[value.decode() for value in columns["id"]],
        video_ids=[value.decode() for value in columns["video_id"]],
    )


def _sequences(frames: Sequence[np.ndarray], cut: int) -> Sequences:
    flat = np.concatenate(frames)
    broken = ~np.isfinite(flat)
    flat[broken] = 0.0
    return Sequences(
        frames=flat,
        offsets=np.cumsum([0, *map(len, frames)]),
        repaired=broken.sum(axis=0),
        cut=cut,
    )
