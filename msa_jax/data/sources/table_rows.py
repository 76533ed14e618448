"""What a file of a table offers, whatever its kind."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row as it stands in the file.

    Attributes:
      number: its place among the file's rows, from 0.
      line: the line at which it starts, or its row, both from 1; see `Rows.place`.
      values: `{column: value}` of the columns asked for, strings or numbers; None where empty.
      frames: `{modality: [T, C] float32}` of the modalities asked for; T = 0 where absent.
    """

    number: int
    line: int
    values: Mapping[str, Any]
    frames: Mapping[str, np.ndarray]


class Rows(Protocol):
    """One file of a table, whose structure has been checked.

    Attributes:
      path: the file.
      names: all its columns.
      channels: `{modality: C}`, by name; 0 where it is absent in all rows and nothing else tells C.
        Who knows C from another file sets it here before reading.
      features: the columns that belong to modalities.
    """

    path: str
    names: tuple[str, ...]
    channels: Mapping[str, int]
    features: frozenset[str]

    def place(self, line: int) -> str:
        """Words for the file and one of its rows, by its `line`."""
        ...

    def rows(
        self, names: Sequence[str], modalities: Sequence[str], keep: np.ndarray | None = None
    ) -> Iterator[Row]:
        """Rows in the file's order; never more than a few of them are held in memory.

        Args:
          names: the columns that `Row.values` shall have.
          modalities: those that `Row.frames` shall have.
          keep: [N] bool, the rows wanted; all where None.

        Raises:
          UserError: if the file is damaged or a value is none; the message tells where.
        """
        ...
