"""Reads a features file (.npz): one row an utterance, any modalities, sequences or single vectors.

Per modality either `{modality}` [N, C] (one vector an utterance) or [N, T, C] (a sequence, valid in
its first `{modality}_length` [N] steps, all steps where that array is missing), or
`{modality}_ids` [N, T] with `{modality}_table` [V, C] and `{modality}_length`. Besides: `score` [N]
in [-3, 3], `split` [N] of train, valid, test, `id` [N], and optionally `video_id`, `segment`,
`start`, `end`, `transcript` and further `split_*` columns.
"""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from msa_jax.data.schema import RESERVED, SCORE_RANGE, SPLITS, Utterance
from msa_jax.errors import UserError, nearest


class FeaturesFile:
    """A checked features file, held in memory.

    Attributes:
      path: the file.
      channels: `{modality: C}` of every modality found, by name.
      counts: `{split: utterances}` of the splits that have any.
    """

    def __init__(self, path: str, split_column: str = "split") -> None:
        """Reads and checks the file.

        Raises:
          UserError: if it is not a readable .npz, lacks an array, or holds values that the
            schema does not allow; the message names the array and the first rows concerned.
        """
        self.path = path
        self._arrays = _load(path)
        for name in ("id", "score", split_column):
            if name not in self._arrays:
                raise UserError(
                    f"{path} has no array {name!r} [N]. {nearest(name, self._arrays)} "
                    "See the README, 'Your own data'."
                )
        self._ids = self._column("id").astype(str)
        self._scores = self._checked_scores()
        self._splits = self._checked_splits(split_column)
        self.channels = {m: self._checked_channels(m) for m in self._modalities()}
        if not self.channels:
            raise UserError(
                f"{path} holds no modality: expected arrays such as text [N, T, C], audio "
                f"[N, C] or text_ids [N, T] with text_table [V, C]. "
                f"Found: {', '.join(sorted(self._arrays))}."
            )
        self.counts = {s: n for s in SPLITS if (n := int(np.sum(self._splits == s)))}

    def utterances(self, split: str) -> Iterator[Utterance]:
        """The utterances of a split, in the file's order."""
        video_ids = self._optional("video_id", self._ids).astype(str)
        segments = self._optional("segment", np.zeros(len(self._ids), np.int32))
        unknown = np.full(len(self._ids), np.nan, np.float32)
        starts, ends = self._optional("start", unknown), self._optional("end", unknown)
        transcripts = self._optional("transcript", np.full(len(self._ids), "")).astype(str)
        for row in np.flatnonzero(self._splits == split):
            yield Utterance(
                id=str(self._ids[row]),
                frames={m: self._frames(m, row) for m in self.channels},
                score=float(self._scores[row]),
                video_id=str(video_ids[row]),
                segment=int(segments[row]),
                start=float(starts[row]),
                end=float(ends[row]),
                transcript=str(transcripts[row]),
            )

    def _modalities(self) -> list[str]:
        """Names of float matrices with one row an utterance, and of `_ids` with a table."""
        count = len(self._ids)
        direct = [
            name
            for name, array in self._arrays.items()
            if array.ndim >= 2 and array.dtype.kind == "f" and len(array) == count
            if not name.endswith("_table") and name not in RESERVED
        ]
        return sorted({*direct, *(n[: -len("_ids")] for n in self._arrays if n.endswith("_ids"))})

    def _checked_channels(self, modality: str) -> int:
        """Checks the arrays of a modality and returns its C."""
        if modality in self._arrays:
            array = self._arrays[modality]
            if array.ndim not in (2, 3):
                raise UserError(
                    f"{self.path}: {modality} has shape {array.shape}: expected [N, C] or "
                    "[N, T, C]."
                )
            steps = array.shape[1] if array.ndim == 3 else 1
            channels = array.shape[-1]
        else:
            ids = self._column(f"{modality}_ids", rank=2)
            table = self._arrays.get(f"{modality}_table")
            if table is None or table.ndim != 2:
                raise UserError(
                    f"{self.path} has {modality}_ids but no array {modality}_table [V, C] of their "
                    "vectors: add it."
                )
            if ids.dtype.kind not in "iu" or (
                ids.size and not 0 <= ids.min() <= ids.max() < len(table)
            ):
                raise UserError(
                    f"{self.path}: {modality}_ids must be integers in [0, {len(table)}), the rows "
                    f"of {modality}_table; found {ids.dtype} from {ids.min()} to {ids.max()}."
                )
            steps, channels = ids.shape[1], table.shape[1]
        lengths = self._lengths(modality, steps)
        if lengths.dtype.kind not in "iu" or np.any((lengths < 0) | (lengths > steps)):
            bad = _first(self._ids, ~((lengths >= 0) & (lengths <= steps)))
            raise UserError(
                f"{self.path}: {modality}_length must be integers in [0, {steps}], the steps of "
                f"{modality}; not so in {bad}."
            )
        return int(channels)

    def _lengths(self, modality: str, steps: int) -> np.ndarray:
        full = np.full(len(self._ids), steps, np.int32)
        return self._optional(f"{modality}_length", full)

    def _frames(self, modality: str, row: Any) -> np.ndarray:
        """Frames [T, C] float32 of one utterance, unpadded."""
        if modality in self._arrays:
            frames = self._arrays[modality][row]
            frames = frames if frames.ndim == 2 else frames[None]
        else:
            frames = self._arrays[f"{modality}_table"][self._arrays[f"{modality}_ids"][row]]
        length = int(self._lengths(modality, len(frames))[row])
        return np.ascontiguousarray(frames[:length], np.float32)

    def _column(self, name: str, rank: int = 1) -> np.ndarray:
        array = self._arrays[name]
        count = len(self._arrays["id"])
        if array.ndim != rank or len(array) != count:
            raise UserError(
                f"{self.path}: {name} has shape {array.shape}: expected {rank} dimension(s), "
                f"the first of {count}, one row for each id."
            )
        return array

    def _optional(self, name: str, default: np.ndarray) -> np.ndarray:
        return self._column(name) if name in self._arrays else default

    def _checked_scores(self) -> np.ndarray:
        scores = self._column("score")
        low, high = SCORE_RANGE
        if scores.dtype.kind not in "fiu":
            raise UserError(f"{self.path}: score is {scores.dtype}: expected numbers.")
        outside = ~((scores >= low) & (scores <= high))
        if outside.any():
            rows = np.flatnonzero(outside)[:3]
            shown = ", ".join(f"{scores[row]} for {self._ids[row]!r}" for row in rows)
            raise UserError(
                f"{self.path}: {outside.sum()} of {len(scores)} scores are outside [{low:g}, "
                f"{high:g}] or not a number: {shown}. Correct or drop these rows."
            )
        return scores.astype(np.float32)

    def _checked_splits(self, column: str) -> np.ndarray:
        splits = self._column(column).astype(str)
        unknown = sorted(set(splits.tolist()) - set(SPLITS))
        if unknown:
            raise UserError(
                f"{self.path}: {column} holds {unknown[0]!r}; expected train, valid or test."
                f" {nearest(unknown[0], SPLITS)}"
            )
        unique, counts = np.unique(self._ids, return_counts=True)
        if len(unique) < len(self._ids):
            raise UserError(
                f"{self.path}: {int((counts > 1).sum())} ids occur more than once, "
                f"for example {str(unique[counts > 1][0])!r}. Every utterance needs its own id."
            )
        return splits


def digest(path: str) -> str:
    """The first 12 hexadecimal digits of the file's SHA-256.

    Raises:
      UserError: if there is no such file.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Check config.data.path.") from error


def _load(path: str) -> Mapping[str, np.ndarray]:
    try:
        # Opened here: NumPy leaves a file that is no archive open.
        with Path(path).open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(f"{path} is a single array: expected an .npz of named arrays.")
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not a features file (.npz without pickled objects): {error}"
        ) from error


def _first(ids: np.ndarray, where: np.ndarray, most: int = 3) -> str:
    return ", ".join(repr(str(i)) for i in ids[where][:most])
