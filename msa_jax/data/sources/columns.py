"""Checks on the columns of people's own files, the same for features files and tables."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from msa_jax.data.schema import RESERVED, SCORE_RANGE, SPLITS
from msa_jax.errors import UserError, nearest

LARGEST_SEGMENT = 2**31 - 1  # segments are stored as int32
_MODALITY = re.compile(r"[A-Za-z0-9_-]+")
_NUMBERED = re.compile(r"(.+)_([0-9]+)")

# Names a row for a person: its id, and its line where there are lines.
Name = Callable[[int], str]


def is_taken(modality: str) -> bool:
    """Whether a name already means something else."""
    return modality in RESERVED or modality.endswith("_mask")


def check_modality(path: str, modality: str) -> None:
    """Checks that a modality can have this name.

    Raises:
      UserError: if it already means something else, or holds anything but letters, digits, `_`
        and `-`.
    """
    if is_taken(modality):
        raise UserError(
            f"{path}: {modality!r} cannot name a modality, it already means something else. "
            "Rename it."
        )
    if not _MODALITY.fullmatch(modality):
        raise UserError(
            f"{path}: {modality[:100]!r} cannot name a modality: expected letters, digits, _ and "
            "-. Rename it."
        )


def numbered(path: str, names: Sequence[str]) -> dict[str, int]:
    """`{modality: C}` of the columns named `{modality}_0` to `{modality}_{C-1}`, by name.

    Raises:
      UserError: if a number is missing or has leading zeros, or if the modality's name is no good.
    """
    numbers: dict[str, set[int]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None or name.startswith("split_"):
            continue
        modality, number = match.groups()
        if len(number) > 9 or str(int(number)) != number:
            raise UserError(
                f"{path}: the column {name[:100]!r} is numbered in a way of its own: expected "
                f"{modality[:100]}_0, {modality[:100]}_1 and so on, without leading zeros."
            )
        numbers.setdefault(modality, set()).add(int(number))
    for modality, found in numbers.items():
        check_modality(path, modality)
        missing = next(number for number in range(len(found) + 1) if number not in found)
        if missing < len(found):
            raise UserError(
                f"{path}: the column {modality}_{missing} is missing; {modality} goes up to "
                f"{modality}_{max(found)}. Number its columns from 0 without a gap, or rename "
                "columns that hold no features."
            )
    return {modality: len(numbers[modality]) for modality in sorted(numbers)}


def numbered_names(modality: str, channels: int) -> list[str]:
    """The names of a modality's columns, one a channel."""
    return [f"{modality}_{channel}" for channel in range(channels)]


def note_unread(names: Sequence[str]) -> list[str]:
    """What a report says of columns that are nobody's; nothing where there are none."""
    if not names:
        return []
    return [f"Columns that are not read: {listed([n or '(without a name)' for n in names])}."]


def listed(names: Sequence[str], most: int = 20) -> str:
    """The first `most` of some names, cut where they are too long for a message."""
    return ", ".join(name[:100] for name in names[:most]) + _more(len(names) - most)


def listed_rows(rows: np.ndarray, name: Name, most: int = 3) -> str:
    """The names of the first rows [n]; of the others, which may be a billion, none is made."""
    return ", ".join(map(name, rows[:most].tolist())) + _more(len(rows) - most)


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun, `1 video` or `2 videos`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def check_scores(path: str, scores: np.ndarray, name: Name) -> None:
    """Checks scores [N].

    Raises:
      UserError: if any is outside [-3, 3] or not a number.
    """
    low, high = SCORE_RANGE
    outside = ~((scores >= low) & (scores <= high))
    if outside.any():
        shown = listed_rows(np.flatnonzero(outside), lambda row: f"{scores[row]} for {name(row)}")
        raise UserError(
            f"{path}: {outside.sum()} of {len(scores)} scores are outside [{low:g}, {high:g}] or "
            f"not a number: {shown}. Correct or drop these rows."
        )


def check_splits(path: str, column: str, splits: Sequence[str], name: Name) -> None:
    """Checks the split of each row.

    Raises:
      UserError: if any is neither train, valid nor test.
    """
    for row, split in enumerate(splits):
        if split not in SPLITS:
            raise UserError(
                f"{path}: {column} holds {split[:100]!r} for {name(row)}; expected train, valid or "
                f"test. {nearest(split[:100], SPLITS)}"
            )


def check_unique(path: str, ids: Sequence[str], name: Name) -> None:
    """Checks that every utterance has an id of its own.

    Raises:
      UserError: if an id is empty or occurs more than once.
    """
    seen: dict[str, int] = {}
    again: dict[str, int] = {}
    for row, own in enumerate(ids):
        if not own:
            raise UserError(f"{path}: the id of {name(row)} is empty. Every utterance needs one.")
        if seen.setdefault(own, row) != row:
            again.setdefault(own, row)
    if again:
        own, row = next(iter(again.items()))
        count = counted(len(again), "id occurs", "ids occur")
        raise UserError(
            f"{path}: {count} more than once, for example {name(seen[own])} and again {name(row)}. "
            "Every utterance needs its own id."
        )
