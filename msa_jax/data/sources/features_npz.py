"""Reads a features file (.npz): one row an utterance, any modalities, sequences or single vectors.

Per modality either `{modality}` [N, C] (one vector an utterance) or [N, T, C] (a sequence, valid in
its first `{modality}_length` [N] steps, all steps where that array is missing), or
`{modality}_ids` [N, T] with `{modality}_table` [V, C] and `{modality}_length`. Besides: `score` [N]
in [-3, 3], `split` [N] of train, valid, test, `id` [N], and optionally `video_id`, `segment`,
`start`, `end`, `transcript` and further columns, which are not read and noted in the report. Every
array of two dimensions or more must be a modality's.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from msa_jax.data.schema import COLUMNS, SPLITS, Utterance
from msa_jax.data.sources import columns, npz
from msa_jax.data.sources.contract import Report, Source
from msa_jax.errors import UserError, nearest

_USUAL = ("text", "audio", "vision")
_SUFFIXES = ("_ids", "_table", "_length")


class FeaturesFile(Source):
    """A checked features file, held in memory; see `Source` for its attributes."""

    format = "features_npz"

    def __init__(self, path: str, split_column: str = "split") -> None:
        """Reads and checks the file.

        Raises:
          UserError: if it is not a readable .npz, lacks an array, or holds values that the
            schema does not allow; the message names the array and the first rows concerned.
        """
        self.path = path
        self._arrays = npz.load(path)
        for name in ("id", "score", split_column):
            if name not in self._arrays:
                raise UserError(
                    f"{path} has no array {name!r} [N]. "
                    f"{nearest(name, [known[:100] for known in list(self._arrays)[:50]])} "
                    "See the README, 'Your own data'."
                )
        if self._arrays["id"].ndim != 1:
            raise UserError(
                f"{path}: id has shape {self._arrays['id'].shape}: expected [N], a name for each "
                "utterance."
            )
        self._ids = self._text("id")
        if not len(self._ids):
            raise UserError(f"{path} holds no utterance: its arrays are empty.")
        self._scores = self._checked_scores()
        self._splits = self._text(split_column)
        columns.check_splits(path, split_column, self._splits.tolist(), self._name)
        columns.check_unique(path, self._ids.tolist(), self._name)
        self._optional = self._checked_optional()
        self.channels = self._checked_modalities()
        if not self.channels:
            raise UserError(
                f"{path} holds no modality: expected arrays such as text [N, T, C], audio "
                f"[N, C] or text_ids [N, T] with text_table [V, C]. "
                f"Found: {', '.join(sorted(self._arrays))}."
            )
        found = {s: n for s in SPLITS if (n := int(np.sum(self._splits == s)))}
        self.splits = tuple(found)
        self.report = Report(found=found, notes=columns.note_unread(self._unread(split_column)))

    def utterances(self, split: str) -> Iterator[Utterance]:
        """The utterances of a split, in the file's order."""
        for row in np.flatnonzero(self._splits == split):
            yield Utterance(
                id=str(self._ids[row]),
                frames={m: self._frames(m, row) for m in self.channels},
                score=float(self._scores[row]),
                video_id=str(self._optional["video_id"][row]),
                segment=int(self._optional["segment"][row]),
                start=float(self._optional["start"][row]),
                end=float(self._optional["end"][row]),
                transcript=str(self._optional["transcript"][row]),
            )

    def _checked_modalities(self) -> dict[str, int]:
        """Checks that every array left over belongs to a modality; returns `{modality: C}`."""
        shaped = {n for n, array in self._arrays.items() if array.ndim > 1 or n in _USUAL}
        tables = {n.removesuffix("_table") for n in shaped if n.endswith("_table")}
        shaped |= {f"{table}_ids" for table in tables} & self._arrays.keys()
        own = shaped - {*COLUMNS, "split"} - {n for n in shaped if n.startswith("split_")}
        modalities = {n for n in own if not n.endswith(_SUFFIXES)}
        modalities |= {n.removesuffix("_ids") for n in own if n.endswith("_ids")}
        channels = {modality: self._checked_channels(modality) for modality in sorted(modalities)}
        for name in sorted(own - modalities):
            modality = name.removesuffix("_table").removesuffix("_length").removesuffix("_ids")
            if modality not in modalities:
                raise UserError(
                    f"{self.path}: {name} belongs to no modality: there is neither {modality} nor "
                    f"{modality}_ids. Found: {', '.join(sorted(self._arrays))}."
                )
        return channels

    def _unread(self, split_column: str) -> list[str]:
        """Arrays that nothing is made of, such as a column of the user's own or a misspelt one."""
        read = {m + suffix for m in self.channels for suffix in ("", *_SUFFIXES)}
        read |= {*COLUMNS, "split", split_column}
        return sorted(n for n in self._arrays if n not in read and not n.startswith("split_"))

    def _checked_channels(self, modality: str) -> int:
        """Checks the arrays of a modality and returns its C."""
        columns.check_modality(self.path, modality)
        if {modality, f"{modality}_ids"} <= self._arrays.keys():
            raise UserError(
                f"{self.path} has both {modality} and {modality}_ids: drop one, and the table "
                "with the ids."
            )
        if modality in self._arrays:
            array = self._arrays[modality]
            if array.ndim not in (2, 3) or len(array) != len(self._ids) or not array.shape[-1]:
                raise UserError(
                    f"{self.path}: {modality} has shape {array.shape}: expected [N, C] or "
                    f"[N, T, C] with N = {len(self._ids)}. See the README, 'Your own data'."
                )
            self._check_floats(modality)
            steps = array.shape[1] if array.ndim == 3 else 1
            channels = array.shape[-1]
        else:
            ids = self._column(f"{modality}_ids", rank=2)
            table = self._arrays.get(f"{modality}_table")
            if table is None or table.ndim != 2 or not table.shape[1]:
                raise UserError(
                    f"{self.path} has {modality}_ids but no array {modality}_table [V, C] of their "
                    "vectors: add it."
                )
            self._check_floats(f"{modality}_table")
            if ids.dtype.kind not in "iu" or (
                ids.size and not 0 <= ids.min() <= ids.max() < len(table)
            ):
                found = f" from {ids.min()} to {ids.max()}" if ids.size else ""
                raise UserError(
                    f"{self.path}: {modality}_ids must be integers in [0, {len(table)}), the rows "
                    f"of {modality}_table; found {ids.dtype}{found}."
                )
            steps, channels = ids.shape[1], table.shape[1]
        if f"{modality}_length" in self._arrays:
            self._check_lengths(modality, steps)
        return int(channels)

    def _check_floats(self, name: str) -> None:
        if self._arrays[name].dtype.kind != "f":
            raise UserError(
                f"{self.path}: {name} is {self._arrays[name].dtype}: expected floats, the feature "
                "values. Save it with .astype(numpy.float32)."
            )

    def _check_lengths(self, modality: str, steps: int) -> None:
        lengths = self._column(f"{modality}_length")
        found = str(lengths.dtype)
        if lengths.dtype.kind in "iu":
            bad = (lengths < 0) | (lengths > steps)
            found = f"others in {self._first(bad)}"
            if not bad.any():
                return
        raise UserError(
            f"{self.path}: {modality}_length must be integers in [0, {steps}], the steps of "
            f"{modality}; found {found}."
        )

    def _frames(self, modality: str, row: Any) -> np.ndarray:
        """Frames [T, C] float32 of one utterance, unpadded."""
        if modality in self._arrays:
            frames = self._arrays[modality][row]
            frames = frames if frames.ndim == 2 else frames[None]
        else:
            frames = self._arrays[f"{modality}_table"][self._arrays[f"{modality}_ids"][row]]
        lengths = self._arrays.get(f"{modality}_length")
        # What float32 cannot hold becomes infinite, and is repaired and counted with the rest.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.ascontiguousarray(
                frames if lengths is None else frames[: lengths[row]], np.float32
            )

    def _column(self, name: str, rank: int = 1) -> np.ndarray:
        array = self._arrays[name]
        count = len(self._arrays["id"])
        if array.ndim != rank or len(array) != count:
            raise UserError(
                f"{self.path}: {name} has shape {array.shape}: expected {rank} dimension(s), "
                f"the first of {count}, one row for each id."
            )
        return array

    def _checked_optional(self) -> dict[str, np.ndarray]:
        """The columns that a file may lack, with what stands for "unknown" where it does."""
        count = len(self._ids)
        optional = {
            "video_id": self._ids,
            "segment": np.zeros(count, np.int32),
            "start": np.full(count, np.nan, np.float32),
            "end": np.full(count, np.nan, np.float32),
            "transcript": np.full(count, ""),
        }
        expected = {"segment": ("iu", "integers"), "start": ("iuf", "seconds")}
        expected["end"] = expected["start"]
        for name in [name for name in optional if name in self._arrays]:
            kinds, words = expected.get(name, ("US", "strings"))
            column = self._column(name)
            if column.dtype.kind not in kinds:
                raise UserError(
                    f"{self.path}: {name} is {column.dtype}: expected {words}, or leave the array "
                    "out."
                )
            optional[name] = self._text(name) if words == "strings" else column
        segments = optional["segment"]
        wrong = (segments < 0) | (segments > columns.LARGEST_SEGMENT)
        if wrong.any():
            raise UserError(
                f"{self.path}: segment must be in [0, {columns.LARGEST_SEGMENT}]; found others in "
                f"{self._first(wrong)}."
            )
        # Where unknown, an utterance is its own video.
        optional["video_id"] = np.where(optional["video_id"] == "", self._ids, optional["video_id"])
        return optional

    def _text(self, name: str) -> np.ndarray:
        """A column [N] as strings; bytes are taken for UTF-8."""
        column = self._column(name)
        if column.dtype.kind != "S":
            return column.astype(str)
        try:
            return np.char.decode(column, "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path}: {name} holds bytes that are not UTF-8 ({error.reason}): save it as "
                "strings."
            ) from error

    def _checked_scores(self) -> np.ndarray:
        scores = self._column("score")
        if scores.dtype.kind not in "fiu":
            raise UserError(f"{self.path}: score is {scores.dtype}: expected numbers.")
        columns.check_scores(self.path, scores, self._name)
        return scores.astype(np.float32)

    def _name(self, row: int) -> str:
        return repr(str(self._ids[row])[:100])

    def _first(self, rows: np.ndarray) -> str:
        """The first of the rows [N] bool, by their ids."""
        return columns.listed_rows(np.flatnonzero(rows), self._name)
