"""Rows of a .csv or .tsv table, one at a time."""

import collections
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from msa_jax.data.sources import columns
from msa_jax.data.sources.table_rows import Row
from msa_jax.errors import UserError

# With its quoted line breaks; a million numbers take less.
_LONGEST_ROW = 16 << 20


class CsvRows:
    """A .csv (commas) or .tsv (tabs) file in UTF-8 with a header; see `table_rows.Rows`.

    An empty cell is an unknown value, in a modality NaN; where all of a modality's cells are empty,
    it is absent.
    """

    channels: Mapping[str, int]

    def __init__(self, path: str) -> None:
        """Reads the header.

        Raises:
          UserError: if there is none, a name occurs twice, or a modality's numbers have gaps.
        """
        self.path = path
        self._delimiter = "\t" if path.lower().endswith(".tsv") else ","
        header = next(self._records(), None)
        if header is None:
            raise UserError(f"{path} is empty: expected a header and a row for each utterance.")
        self.names = tuple(header[1])
        if len(self.names) == 1:
            raise UserError(
                f"{path} has the one column {self.names[0][:100]!r}: expected a header with names "
                f"between {self._delimiter!r}. Commas separate columns in .csv files, tabs in .tsv."
            )
        counts = collections.Counter(name for name in self.names if name)
        twice = next((name for name, count in counts.items() if count > 1), None)
        if twice is not None:
            raise UserError(
                f"{path}: the column {twice[:100]!r} occurs twice in the header. Rename one."
            )
        self.channels = columns.numbered(path, self.names)
        self.features = frozenset(
            name for m, size in self.channels.items() for name in columns.numbered_names(m, size)
        )

    def place(self, line: int) -> str:
        """See `table_rows.Rows`."""
        return f"{self.path}, line {line}"

    def rows(
        self, names: Sequence[str], modalities: Sequence[str], keep: np.ndarray | None = None
    ) -> Iterator[Row]:
        """See `table_rows.Rows`."""
        position = {name: index for index, name in enumerate(self.names)}
        wanted = {name: position[name] for name in names}
        features = {
            m: [position[name] for name in columns.numbered_names(m, self.channels[m])]
            for m in modalities
        }
        records = self._records()
        next(records, None)
        for number, (line, cells) in enumerate(records):
            if keep is not None and not (number < len(keep) and keep[number]):
                continue
            if len(cells) != len(self.names):
                raise UserError(
                    f"{self.place(line)} has {len(cells)} cells, the header {len(self.names)}. A "
                    "cell that holds the separator or a line break needs quotes."
                )
            yield Row(
                number=number,
                line=line,
                values={name: cells[index] or None for name, index in wanted.items()},
                frames={m: self._frames(line, cells, where) for m, where in features.items()},
            )

    def _frames(self, line: int, cells: Sequence[str], where: Sequence[int]) -> np.ndarray:
        """One vector [1, C] float32, or [0, C] where all its cells are empty."""
        own = [cells[index] for index in where]
        if not any(own):
            return np.zeros((0, len(own)), np.float32)
        try:
            values = [float(cell) if cell else math.nan for cell in own]
        except ValueError:
            index = next(index for index in where if not _is_number(cells[index]))
            raise UserError(
                f"{self.place(line)}, column {self.names[index]}: {cells[index][:100]!r} is not a "
                "number. Write numbers with a point, or leave the cell empty where the value is "
                "unknown."
            ) from None
        with np.errstate(over="ignore"):
            return np.asarray([values], np.float64).astype(np.float32)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """The lines at which records start, from 1, and their cells; the header is the first."""
        try:
            with Path(self.path).open("rb") as file:
                lines = _Lines(self.path, file)
                reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
                while True:
                    lines.left, line = _LONGEST_ROW, lines.number + 1
                    try:
                        cells = next(reader)
                    except StopIteration:
                        return
                    except csv.Error as error:
                        raise UserError(
                            f"{self.place(line)}: {error}. Expected cells between "
                            f"{self._delimiter!r}, in double quotes where they hold it, a quote "
                            "(doubled) or a line break."
                        ) from error
                    if cells:
                        yield line, cells
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}.") from error


class _Lines:
    """Lines of a file as text; `left` is how many bytes may follow before the row has to end."""

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self.left = _LONGEST_ROW
        self.number = 0
        self._path = path
        self._file = file

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self.left)
        if not line:
            raise StopIteration
        self.number += 1
        self.left -= len(line)
        if not self.left:
            raise UserError(
                f"{self._path}, line {self.number}: the row has more than {_LONGEST_ROW >> 20} "
                "MiB. Look for a quote that is never closed; long sequences belong in a .parquet "
                "table or an .npz."
            )
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self._path}, line {self.number} is not UTF-8 ({error.reason} at byte "
                f"{error.start}): save the table as UTF-8 text."
            ) from error


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True
