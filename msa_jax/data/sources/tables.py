"""Reads tables (.csv, .tsv, .parquet), a row an utterance: one file, or a folder of them.

Columns: `id`, `score` in [-3, 3], `split` of train, valid, test, and optionally `video_id`,
`segment`, `start`, `end`, `transcript`. Features are numbered columns `{modality}_0` to
`{modality}_{C-1}`, one vector an utterance; in Parquet also lists: see `csv_rows` and
`parquet_rows`. A folder's files are shards of one table, read by name; without a split column they
must be named train, valid and test. Only a few rows are in memory at a time.
"""

import array
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msa_jax.data.schema import COLUMNS, SPLITS, Utterance
from msa_jax.data.sources import columns
from msa_jax.data.sources.contract import Report, Source
from msa_jax.data.sources.csv_rows import CsvRows
from msa_jax.data.sources.parquet_rows import ParquetRows
from msa_jax.data.sources.table_rows import Row, Rows
from msa_jax.errors import UserError, nearest

_SUFFIXES = (".csv", ".tsv", ".parquet")
_OPTIONAL = tuple(name for name in COLUMNS if name not in ("id", "score"))


class Tables(Source):
    """A checked table; see `Source` for its attributes."""

    format = "tables"

    def __init__(self, path: str, split_column: str = "split") -> None:
        """Reads the headers, and all ids, splits and scores.

        Raises:
          UserError: if a file cannot be read, lacks a column, differs from the others in its
            columns, or holds values that the schema does not allow; the message names the file,
            the line and the column.
        """
        self.path = path
        self._files = [_open(str(file), split_column) for file in _found(Path(path))]
        self._check_alike()
        first = self._files[0]
        for name in ("id", "score"):
            self._check_has(name)
        if not first.channels:
            raise UserError(
                f"{first.path} holds no modality: expected columns such as text_0, text_1, ... or, "
                f"in Parquet, lists of floats in a column text. Found: {_listed(first.names)}."
            )
        self.channels = first.channels
        self._split_column = self._checked_split_column(split_column)
        self._ids: list[str] = []
        self._scores = array.array("d")
        self._splits: list[str] = []
        self._places: list[str] = []
        self._ends: list[int] = []
        for file in self._files:
            self._read_keys(file)
        if not self._ids:
            raise UserError(f"{path} holds no utterance: expected a row for each.")
        columns.check_splits(path, split_column, self._splits, self._name)
        columns.check_scores(path, np.asarray(self._scores), self._name)
        columns.check_unique(path, self._ids, self._name)
        found = {split: n for split in SPLITS if (n := self._splits.count(split))}
        self.splits = tuple(found)
        self.report = Report(found=found, notes=self._notes(split_column))

    def utterances(self, split: str) -> Iterator[Utterance]:
        """The utterances of a split, in the order of the files and their rows.

        Raises:
          UserError: if a value is none of its column's type; or if the table has changed since
            its ids were read.
        """
        start = 0
        for file, end in zip(self._files, self._ends, strict=True):
            keep = np.array([own == split for own in self._splits[start:end]], bool)
            names = ["id", *(name for name in _OPTIONAL if name in file.names)]
            read = 0
            if keep.any():
                for row in file.rows(names, list(self.channels), keep):
                    read += 1
                    yield self._utterance(row, start + row.number)
            if read != keep.sum():
                raise self._changed(file.path)
            start = end

    def _utterance(self, row: Row, number: int) -> Utterance:
        values = row.values
        own = _text(values["id"])
        if own != self._ids[number]:
            raise self._changed(row.place)
        segment = _number(row, "segment", 0)
        if segment != int(min(max(segment, 0), columns.LARGEST_SEGMENT)):
            raise UserError(
                f"{row.place}, column segment: {segment:g} is no whole number in "
                f"[0, {columns.LARGEST_SEGMENT}]."
            )
        return Utterance(
            id=own,
            frames=row.frames,
            score=self._scores[number],
            video_id=_text(values.get("video_id")) or own,
            segment=int(segment),
            start=_number(row, "start", math.nan),
            end=_number(row, "end", math.nan),
            transcript=_text(values.get("transcript")),
        )

    def _read_keys(self, file: Rows) -> None:
        """Reads the ids, scores and splits of a file."""
        names = ["id", "score"] + ([self._split_column] if self._split_column else [])
        for row in file.rows(names, ()):
            self._ids.append(_text(row.values["id"]))
            self._scores.append(_number(row, "score", math.nan))
            split = _text(row.values[self._split_column]) if self._split_column else None
            self._splits.append(Path(file.path).stem if split is None else split)
            self._places.append(row.place)
        self._ends.append(len(self._ids))

    def _check_alike(self) -> None:
        """Checks that all files have the same columns; their order may differ."""
        first = self._files[0]
        for file in self._files[1:]:
            more, fewer = set(file.names) - set(first.names), set(first.names) - set(file.names)
            if more or fewer:
                words = f"has the column {min(more)!r}" if more else f"lacks {min(fewer)!r}"
                raise UserError(
                    f"{file.path} {words}, unlike {first.path}: all files of a folder must have "
                    "the same columns."
                )
            for modality in first.channels.keys() | file.channels.keys():
                sizes = [f.channels.get(modality, "no") for f in (first, file)]
                if sizes[0] != sizes[1]:
                    raise UserError(
                        f"{file.path} has {sizes[1]} values in a frame of {modality}, {first.path} "
                        f"{sizes[0]}: all files of a folder must have the same."
                    )

    def _check_has(self, name: str, otherwise: str = "") -> None:
        first = self._files[0]
        if name not in first.names:
            plain = [known for known in first.names if known not in first.features and known]
            raise UserError(
                f"{first.path} has no column {name!r}{otherwise}. "
                f"{nearest(name, plain or first.names[:10])} Columns are separated by commas in "
                ".csv files and by tabs in .tsv files. See the README, 'Your own data'."
            )

    def _checked_split_column(self, column: str) -> str:
        """The column that tells the split; empty where the files' names do."""
        stems = [Path(file.path).stem for file in self._files]
        named = Path(self.path).is_dir() and all(stem in SPLITS for stem in stems)
        if column == "split" and column not in self._files[0].names and named:
            return ""
        shown = f", and its files are not named train, valid, test: {_listed(stems)}"
        self._check_has(column, shown if Path(self.path).is_dir() and not named else "")
        return column

    def _notes(self, split_column: str) -> list[str]:
        first = self._files[0]
        used = {*COLUMNS, "split", split_column, *first.features}
        extra = [n for n in first.names if n not in used and not n.startswith("split_")]
        if not extra:
            return []
        shown = _listed([name or "(without a name)" for name in extra])
        return [f"Columns that are not read: {shown}."]

    def _name(self, row: int) -> str:
        return f"{self._ids[row][:100]!r} ({self._places[row]})"

    def _changed(self, place: str) -> UserError:
        return UserError(f"{place} has changed since its ids were read: run again.")


def _found(path: Path) -> list[Path]:
    """The files of a table, by name."""
    try:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    files = [
        file
        for file in inside
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        shown = _listed([file.name for file in inside]) or "nothing"
        raise UserError(f"{path}: expected .csv, .tsv or .parquet tables, found {shown}.")
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) > 1:
        raise UserError(
            f"{path} holds tables of several kinds, {_listed(sorted(kinds))}: keep one, or name "
            "the one file that you mean."
        )
    return files


def _open(path: str, split_column: str) -> Rows:
    if path.lower().endswith(".parquet"):
        return ParquetRows(path, split_column)
    return CsvRows(path)


def _listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(name[:100] for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _number(row: Row, column: str, unknown: float) -> float:
    value = row.values.get(column)
    try:
        return unknown if value is None else float(value)
    except ValueError:
        raise UserError(
            f"{row.place}, column {column}: {str(value)[:100]!r} is not a number. Write it with a "
            "point, or leave the cell empty where it is unknown."
        ) from None
