"""A split of a prepared dataset: what is known of its utterances, and their frames on demand."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from msa_jax.data import flat, units
from msa_jax.data.builders import fingerprint
from msa_jax.data.normalization import NONE, Normalization
from msa_jax.data.schema import SPLITS, mask_key
from msa_jax.data.units import Units
from msa_jax.errors import UserError, nearest

_PART_BYTES = 32 << 20  # read at a time, but for one utterance that is longer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequences:
    """The frames of one modality over a split.

    Attributes:
      frames: on disk, finite, all utterances one after another.
      starts: [N] where each utterance begins.
      lengths: [N] frames of each utterance, maybe none, at most `max_length`.
      repaired: [C] the values, not finite or beyond 1e20, that were replaced by 0, by column.
      cut: frames left out because an utterance was longer than `max_length`.
    """

    frames: flat.Frames
    starts: np.ndarray
    lengths: np.ndarray
    repaired: np.ndarray
    cut: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """The utterances of a split.

    Attributes:
      fingerprint: names the prepared dataset.
      name: train, valid or test.
      sequences: `{modality: Sequences}` in the order in which modalities are joined.
      scores: [N] float32 in [-3, 3].
      ids, video_ids: N names.
      segments: [N] the order within a video; 0 where unknown.
      normalization: applied to frames as they are read.
    """

    fingerprint: str
    name: str
    sequences: Mapping[str, Sequences]
    scores: np.ndarray
    ids: Sequence[str]
    video_ids: Sequence[str]
    segments: np.ndarray
    normalization: Normalization = NONE

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def longest(self) -> dict[str, int]:
        """The frames of the longest utterance by modality, at least 1: what a batch must hold."""
        return {m: max(1, int(s.lengths.max(initial=0))) for m, s in self.sequences.items()}

    @property
    def lengths(self) -> dict[str, np.ndarray]:
        """Frames of each utterance, `{modality: [N]}`."""
        return {m: s.lengths for m, s in self.sequences.items()}

    def units(self, *, of_videos: bool) -> Units:
        """What batches are drawn from: utterances, or videos."""
        if of_videos:
            return units.of_videos(self.lengths, self.video_ids, self.segments)
        return units.of_utterances(self.lengths)

    @property
    def channels(self) -> dict[str, int]:
        """`{modality: C}`."""
        return {m: s.frames.channels for m, s in self.sequences.items()}

    @property
    def size(self) -> int:
        """Bytes of all frames."""
        return sum(4 * s.frames.channels * int(s.lengths.sum()) for s in self.sequences.values())

    def frames(self, modality: str, rows: np.ndarray) -> np.ndarray:
        """The real frames of `rows` [R] one after another, normalised: [F, C] float32."""
        sequences = self.sequences[modality]
        frames = sequences.frames.read(sequences.starts[rows], sequences.lengths[rows])
        self.normalization.apply(modality, frames)
        return frames

    def parts(self, modality: str) -> Iterator[np.ndarray]:
        """All frames in order, normalised, some megabytes at a time: [F, C] float32."""
        sequences = self.sequences[modality]
        ends = np.cumsum(sequences.lengths)
        part = (ends - 1) // max(1, _PART_BYTES // (4 * sequences.frames.channels))
        for rows in np.split(np.arange(len(self)), np.flatnonzero(np.diff(part)) + 1):
            yield self.frames(modality, rows)

    def gather(self, rows: np.ndarray, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Frames and masks of `rows` [B], padded with zeros at the end to `lengths`.

        Args:
          rows: [B] in [0, N); a negative one is a filler without frames.
          lengths: `{modality: T}`, no shorter than the longest of the rows.

        Returns:
          `{modality: [B, T, C] float32, modality + "_mask": [B, T] bool, ...}`
        """
        batch: dict[str, np.ndarray] = {}
        real = rows >= 0
        for modality, sequences in self.sequences.items():
            counts = np.where(real, sequences.lengths[rows], 0)
            starts = np.where(real, sequences.starts[rows], 0)
            mask = np.arange(lengths[modality]) < counts[:, None]
            padded = sequences.frames.read_padded(starts, counts, lengths[modality])
            self.normalization.apply(modality, padded)
            padded[~mask] = 0
            batch |= {modality: padded, mask_key(modality): mask}
        return batch

    def summary(self) -> dict[str, Any]:
        """What a person should know about these data, for results.json."""
        return {
            "utterances": len(self),
            "videos": len(set(self.video_ids)),
            "modalities": {
                modality: {
                    "frames": int(sequences.lengths.sum()),
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
    """Opens a split of a prepared dataset.

    Raises:
      UserError: if the dataset has no such split or modality.
    """
    known = available_splits(builder)
    if split not in known:
        raise UserError(f"{fingerprint(builder)} has no split {split!r}. {nearest(split, known)}")
    folder, index = flat.open_split(builder, split)
    for modality in modalities:
        if modality not in index["channels"]:
            raise UserError(
                f"{fingerprint(builder)} has no modality {modality!r}. "
                f"{nearest(modality, index['channels'])} config.data.modalities says which are "
                "used."
            )
    sequences = {}
    for modality in modalities:
        written = np.load(folder / f"{modality}.lengths.npy")
        kept = np.minimum(written, max_length)
        frames = flat.Frames(folder / f"{modality}.f32", index["channels"][modality])
        if len(frames) != written.sum():
            raise UserError(
                f"{folder} is damaged ({modality} has {len(frames)} frames, {written.sum()} were "
                "written): remove it, and it is written anew."
            )
        sequences[modality] = Sequences(
            frames=frames,
            starts=np.cumsum(written) - written,
            lengths=kept,
            repaired=np.asarray(index["repaired"][modality]),
            cut=int((written - kept).sum()),
        )
    return Split(
        fingerprint=fingerprint(builder),
        name=split,
        sequences=sequences,
        scores=np.load(folder / "scores.npy"),
        ids=index["id"],
        video_ids=index["video_id"],
        segments=np.asarray(index["segment"]),
    )


def videos_in_two_splits(splits: Mapping[str, Split]) -> dict[str, list[str]]:
    """`{"train and test": [video ids]}` of the pairs of splits that share any."""
    videos = {name: set(split.video_ids) for name, split in splits.items()}
    shared = {f"{a} and {b}": videos[a] & videos[b] for a, b in itertools.combinations(videos, 2)}
    return {pair: sorted(both) for pair, both in shared.items() if both}


def videos_warning(shared: Mapping[str, Sequence[str]]) -> str:
    """What is wrong with `videos_in_two_splits`, in a sentence; empty where nothing is."""
    some = "; ".join(
        f"{len(names)} in {pair} ({', '.join(names[:5])}{', ...' if names[5:] else ''})"
        for pair, names in shared.items()
    )
    return some and f"videos are in two splits, and utterances of a video are alike: {some}."
