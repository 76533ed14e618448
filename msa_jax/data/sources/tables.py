"""Reads tables (.csv, .tsv, .parquet), a row an utterance: one file, or a folder of them.

Columns: `id`, `score` in [-3, 3], `split` of train, valid, test, and optionally `video_id`,
`segment`, `start`, `end`, `transcript`. Features are numbered columns `{modality}_0` to
`{modality}_{C-1}`, one vector an utterance; in Parquet also lists: see `csv_rows` and
`parquet_rows`. A folder's files are shards of one table, read by name; without a split column they
must be named train, valid and test. Besides ids, splits and scores, only a few rows are in memory
at a time.
"""

import array
import bisect
import math
import sys
from collections.abc import Iterator, Mapping
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
        self._check_names()
        first = self._files[0]
        for name in ("id", "score"):
            self._check_has(name)
        self.channels = self._checked_channels()
        self._split_column = self._checked_split_column(split_column)
        self._ids: list[str] = []
        self._scores = array.array("d")
        self._splits: list[str] = []
        self._lines = array.array("q")
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
        used = {*COLUMNS, "split", split_column, *first.features}
        unread = [n for n in first.names if n not in used and not n.startswith("split_")]
        self.report = Report(found=found, notes=columns.note_unread(unread))

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
                    yield self._utterance(row, start + row.number, file.place(row.line))
            if read != keep.sum():
                raise self._changed(file.path)
            start = end

    def _utterance(self, row: Row, number: int, place: str) -> Utterance:
        values = row.values
        own = _text(values["id"])
        if own != self._ids[number]:
            raise self._changed(place)
        segment = _number(values, "segment", place, 0)
        if segment != int(min(max(segment, 0), columns.LARGEST_SEGMENT)):
            raise UserError(
                f"{place}, column segment: {segment:g} is no whole number in "
                f"[0, {columns.LARGEST_SEGMENT}]. Correct it, or leave it empty where unknown."
            )
        return Utterance(
            id=own,
            frames=row.frames,
            score=self._scores[number],
            video_id=_text(values.get("video_id")) or own,
            segment=int(segment),
            start=_number(values, "start", place, math.nan),
            end=_number(values, "end", place, math.nan),
            transcript=_text(values.get("transcript")),
        )

    def _read_keys(self, file: Rows) -> None:
        """Reads the ids, scores and splits of a file."""
        names = ["id", "score"] + ([self._split_column] if self._split_column else [])
        for row in file.rows(names, ()):
            self._ids.append(_text(row.values["id"]))
            self._scores.append(_number(row.values, "score", file.place(row.line), math.nan))
            split = _text(row.values[names[2]]) if self._split_column else Path(file.path).stem
            self._splits.append(sys.intern(split))
            self._lines.append(row.line)
        self._ends.append(len(self._ids))

    def _check_names(self) -> None:
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

    def _checked_channels(self) -> dict[str, int]:
        """`{modality: C}`, the same in all files, but where it is absent in all rows of one."""
        first = self._files[0]
        channels: dict[str, int] = {}
        for modality in sorted(set().union(*(file.channels for file in self._files))):
            known = [file for file in self._files if file.channels.get(modality) != 0]
            if not known:
                raise UserError(
                    f"{self.path}: the column {modality} is empty in every row: drop it, or write "
                    "its features."
                )
            sizes = [file.channels.get(modality, "no") for file in known]
            for file, size in zip(known, sizes, strict=True):
                if size != sizes[0]:
                    raise UserError(
                        f"{file.path} has {size} values in a frame of {modality}, {known[0].path} "
                        f"{sizes[0]}: all files of a folder must have the same."
                    )
            channels[modality] = known[0].channels[modality]
        if not channels:
            raise UserError(
                f"{first.path} holds no modality: expected columns such as text_0, text_1, ... or, "
                "in Parquet, lists of floats in a column text. Found: "
                f"{columns.listed(first.names)}."
            )
        for file in self._files:
            file.channels = channels
        return channels

    def _check_has(self, name: str, otherwise: str = "") -> None:
        first = self._files[0]
        if name not in first.names:
            # A long search, and a long message, help nobody.
            plain = [n[:100] for n in first.names if n and n not in first.features]
            plain = (plain or [n[:100] for n in first.names])[:50]
            raise UserError(
                f"{first.path} has no column {name!r}{otherwise}. "
                f"{nearest(name, plain)} See the README, 'Your own data'."
            )

    def _checked_split_column(self, column: str) -> str:
        """The column that tells the split; empty where the files' names do."""
        stems = [Path(file.path).stem for file in self._files]
        named = Path(self.path).is_dir() and all(stem in SPLITS for stem in stems)
        if column == "split" and column not in self._files[0].names and named:
            return ""
        shown = f", and its files are not named train, valid, test: {columns.listed(stems)}"
        self._check_has(column, shown if Path(self.path).is_dir() and not named else "")
        return column

    def _name(self, row: int) -> str:
        file = self._files[bisect.bisect_right(self._ends, row)]
        return f"{self._ids[row][:100]!r} ({file.place(self._lines[row])})"

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
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    if not files:
        shown = columns.listed([file.name for file in inside]) or "nothing"
        raise UserError(f"{path}: expected .csv, .tsv or .parquet tables, found {shown}.")
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) > 1:
        raise UserError(
            f"{path} holds tables of several kinds, {columns.listed(sorted(kinds))}: keep one, or "
            "name the one file that you mean."
        )
    return files


def _open(path: str, split_column: str) -> Rows:
    if path.lower().endswith(".parquet"):
        return ParquetRows(path, split_column)
    return CsvRows(path)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _number(values: Mapping[str, Any], column: str, place: str, unknown: float) -> float:
    """A number of a row; `unknown` where it is missing, empty or NaN."""
    value = values.get(column)
    try:
        number = unknown if value is None else float(value)
    except ValueError:
        raise UserError(
            f"{place}, column {column}: {str(value)[:100]!r} is not a number. Write it with a "
            "point, or leave the cell empty where it is unknown."
        ) from None
    return unknown if math.isnan(number) else number
