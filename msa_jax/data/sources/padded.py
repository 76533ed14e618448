"""What the layouts of MultiBench and MMSA share: splits of arrays padded to [N, T, C], checked."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from msa_jax.data.schema import SCORE_RANGE, SPLITS
from msa_jax.data.sources import pickles
from msa_jax.data.sources import scores as raw
from msa_jax.data.sources.columns import counted, listed, listed_rows
from msa_jax.data.sources.contract import Report, Source
from msa_jax.errors import UserError, nearest

MODALITIES = ("text", "audio", "vision")
_NAMES = {"train": "train", "valid": "valid", "dev": "valid", "test": "test"}
_CLIPS = (re.compile(r"(.+)\[([0-9]{1,9})\]"), re.compile(r"(.+)\$_\$([0-9]{1,9})"))
_UNDERSCORE = re.compile(r"(.+)_([0-9]{1,9})")


@dataclasses.dataclass(frozen=True)
class Table:
    """One split of a file, as found: arrays and lists by key, one entry an utterance."""

    path: str
    split: str
    columns: Mapping[Any, Any]

    def refusal(self, key: str, problem: str) -> UserError:
        """The error to raise where an entry is wrong."""
        return UserError(f"{self.path}: {key} of split {self.split!r} {problem}")

    def column(self, key: str) -> Any:
        """What stands under a key.

        Raises:
          UserError: if nothing does.
        """
        if key not in self.columns:
            known = [name for name in self.columns if isinstance(name, str)]
            raise UserError(
                f"{self.path}: split {self.split!r} has no {key!r}. {nearest(key, known)} "
                "Download the file again, or add it."
            )
        return self.columns[key]

    def padded(self, modality: str) -> np.ndarray:
        """The padded frames [N, T, C] of a modality.

        Raises:
          UserError: if they are no such array of numbers, or have no utterance, step or channel.
        """
        array = self.column(modality)
        if not isinstance(array, np.ndarray):
            raise self.refusal(
                modality, f"is a {type(array).__name__}: expected an array of numbers [N, T, C]."
            )
        if array.dtype.kind not in "fiu" or array.ndim != 3 or not array.size:
            raise self.refusal(
                modality,
                f"has shape {array.shape} and type {array.dtype}: expected numbers [N, T, C], "
                "N utterances of T steps and C channels, none of them 0.",
            )
        return array

    def rows(self, key: str, count: int) -> list[tuple[Any, ...]]:
        """One tuple for each utterance, of a list or array [N], [N, 1] or [N, 3].

        Raises:
          UserError: if it has another shape or not `count` rows.
        """
        value = self.column(key)
        if isinstance(value, np.ndarray):
            if value.ndim not in (1, 2) or (value.ndim == 2 and value.shape[1] not in (1, 3)):
                raise self.refusal(key, f"has shape {value.shape}: expected [N], [N, 1] or [N, 3].")
            self._check_count(key, len(value), count)
            value = value.tolist()
        if not isinstance(value, list | tuple):
            raise self.refusal(key, f"is a {type(value).__name__}: expected an array or list [N].")
        self._check_count(key, len(value), count)
        return [_row(entry) for entry in value]

    def texts(self, key: str, count: int) -> list[str]:
        """A string for each utterance.

        Raises:
          UserError: if they are no strings or not `count`.
        """
        found = strings(row[0] if len(row) == 1 else None for row in self.rows(key, count))
        wrong = [row for row, entry in enumerate(found) if entry is None]
        if wrong:
            raise self.refusal(key, f"is no string in rows {wrong[:3]}: expected one a row.")
        return [entry or "" for entry in found]

    def names(self, key: str, count: int) -> list[tuple[str, tuple[Any, ...]]]:
        """For each utterance its name, and what stands beside it: nothing, or start and end.

        Raises:
          UserError: if a name is no string of 1 to 200 characters, or there are not `count`.
        """
        rows = self.rows(key, count)
        found = strings(row[0] if row else None for row in rows)
        wrong = [row for row, name in enumerate(found) if not name or len(name) > 200]
        if wrong:
            raise self.refusal(
                key, f"is no name in rows {wrong[:3]}: expected a string, or (video, start, end)."
            )
        return [(name or "", row[1:]) for name, row in zip(found, rows, strict=True)]

    def scores(self, key: str, ids: Sequence[str], report: Report) -> np.ndarray:
        """Sentiment [N] in [-3, 3]: the only or the first of seven columns.

        Raw labels are clipped to it, and that is noted: see `scores`.

        Raises:
          UserError: if the shape is none of [N], [N, 1], [N, 7], [N, 1, 1] and [N, 1, 7], or a
            score is outside [-5, 5] or not a number.
        """
        value = self.column(key)
        if isinstance(value, list) and all(isinstance(v, int | float | np.number) for v in value):
            value = np.array([float(v) for v in value])
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise self.refusal(key, f"is {kind}: expected an array of numbers [N].")
        if value.ndim > 1 and (
            value.shape[1:-1] not in ((), (1,)) or value.shape[-1] not in (1, 7)
        ):
            raise self.refusal(
                key,
                f"has shape {value.shape}: expected [N], [N, 1] or [N, 1, 1] sentiment scores, or "
                "7 columns of which sentiment is the first.",
            )
        self._check_count(key, len(value) if value.ndim else 0, len(ids))
        scores = value.reshape(len(ids), -1)[:, 0]
        wrong = raw.wrong(scores)
        if len(wrong):
            low, high = SCORE_RANGE
            shown = listed_rows(wrong, lambda row: f"{scores[row]} for {ids[row]!r}")
            raise self.refusal(
                key,
                f"is outside [{low:g}, {high:g}] or not a number in {len(wrong)} of {len(ids)} "
                f"rows: {shown}. Correct or drop these rows.",
            )
        clipped, rows = raw.clip(scores)
        if len(rows):
            shown = listed_rows(rows, lambda row: f"{scores[row]:.4g} of {ids[row]!r}")
            report.notes.append(f"{self.split}: {raw.note(len(rows), shown)}")
        return clipped

    def _check_count(self, key: str, found: int, expected: int) -> None:
        if found != expected:
            raise self.refusal(
                key,
                f"has {found} rows where text has {expected}: every array of a split needs one row "
                "an utterance. The file is damaged: download it again.",
            )


class PaddedPickle(Source):
    """What the readers of both layouts hold; arrays stay memory-mapped where the pickle allows."""

    def __init__(self, path: str, content: Any = None) -> None:
        """Checks the structure.

        Args:
          path: the file.
          content: what `pickles.load` made of it, to spare reading it twice.

        Raises:
          UserError: if it cannot be read, or an array is missing, misshapen or out of range; the
            message names the split and the key.
        """
        self.path = path
        self.report = Report()
        self._tables = tables(path, pickles.load(path) if content is None else content)
        self._arrays = modalities(self._tables)
        self.splits = tuple(self._tables)
        first = self._arrays[self.splits[0]]
        self.channels = {modality: int(array.shape[2]) for modality, array in first.items()}

    def _note_absent(self, split: str, absent: Mapping[str, int]) -> None:
        """Notes how many utterances of a split each modality is absent in."""
        self.report.notes += [
            f"{split}: {modality} is all zeros, taken as absent, in {count} of "
            f"{self.report.found[split]} utterances."
            for modality, count in absent.items()
            if count
        ]


def keys(content: Any) -> list[set[Any]]:
    """The keys of each split of a pickle's content, whatever it is."""
    if not isinstance(content, dict):
        return []
    return [set(content[name]) for name in _NAMES if isinstance(content.get(name), dict)]


def tables(path: str, content: Any) -> dict[str, Table]:
    """The splits of a pickle's content by the schema's names (dev is valid), in their order.

    Raises:
      UserError: if there is none, one is no dict, or one is there twice.
    """
    found: dict[str, Table] = {}
    for key in content if isinstance(content, dict) else ():
        split = _NAMES.get(key) if isinstance(key, str) else None
        if split is None:
            continue
        if split in found:
            raise UserError(
                f"{path} holds {split} twice, as {found[split].split!r} and {key!r}: remove one."
            )
        if not isinstance(content[key], dict):
            raise UserError(
                f"{path}: split {key!r} is a {type(content[key]).__name__}: expected a dict of "
                "text, audio, vision, labels and ids."
            )
        found[split] = Table(path, key, content[key])
    if not found:
        raise UserError(f"{path} holds none of the splits train, valid (or dev) and test.")
    return {split: found[split] for split in SPLITS if split in found}


def modalities(found: Mapping[str, Table]) -> dict[str, dict[str, np.ndarray]]:
    """`{split: {modality: [N, T, C]}}` of text, audio and vision.

    Raises:
      UserError: if one is missing or misshapen, or N differs in a split or C between splits.
    """
    arrays: dict[str, dict[str, np.ndarray]] = {}
    first: dict[str, np.ndarray] = {}
    for split, table in found.items():
        arrays[split] = {modality: table.padded(modality) for modality in MODALITIES}
        for modality, array in arrays[split].items():
            table._check_count(modality, len(array), len(arrays[split]["text"]))
            expected = first.setdefault(modality, array).shape[2]
            if array.shape[2] != expected:
                raise table.refusal(
                    modality,
                    f"has {array.shape[2]} channels where another split has {expected}: all splits "
                    "need the same features. Use splits of one file.",
                )
    return arrays


def clips(names: Sequence[str]) -> list[tuple[str, int]]:
    """The video and the segment, counted from 1, that each name of a whole file tells.

    Names are `video[3]`, `video$_$3` or, if all of the file are, `video_3`. Tools count from 0
    (CMU-MultimodalSDK) or from 1: where any number of the file is 0, all are taken one higher.
    Other names are their own video, of segment 0 (unknown).
    """
    forms: tuple[re.Pattern[str], ...] = _CLIPS
    if names and all(_UNDERSCORE.fullmatch(name) for name in names):
        forms = (*_CLIPS, _UNDERSCORE)
    found = [next((m for form in forms if (m := form.fullmatch(name))), None) for name in names]
    first = 1 if any(match and int(match[2]) == 0 for match in found) else 0
    return [
        (match[1], int(match[2]) + first) if match else (name, 0)
        for name, match in zip(names, found, strict=True)
    ]


def unique(ids: Sequence[str], split: str, report: Report) -> list[str]:
    """The ids of a split; those that occur again are renamed `id#2`, `id#3`, and noted."""
    taken, seen = set(ids), dict.fromkeys(ids, 0)
    renamed, result = [], []
    for name in ids:
        seen[name] += 1
        new = name
        while seen[name] > 1 and (new := f"{name}#{seen[name]}") in taken:
            seen[name] += 1
        if new != name:
            taken.add(new)
            renamed.append(new)
        result.append(new)
    if renamed:
        count = counted(len(renamed), "id")
        were = "was" if len(renamed) == 1 else "were"
        report.notes.append(
            f"{split}: {count} occurred before in the split and {were} renamed: "
            f"{listed(renamed, 3)}."
        )
    return result


def nonzero(frames: np.ndarray) -> tuple[int, int]:
    """The first step of [T, C] that is not all zeros and the one after the last; (0, 0) if none."""
    with np.errstate(invalid="ignore"):  # a NaN may be of the kind that warns
        steps = np.flatnonzero((frames != 0).any(axis=1))
    return (int(steps[0]), int(steps[-1]) + 1) if len(steps) else (0, 0)


def sides(arrays: Iterable[np.ndarray]) -> tuple[int, int]:
    """How many sequences of arrays [N, T, C] have zeros at the start only, and at the end only."""
    left = right = 0
    for array in arrays:
        with np.errstate(invalid="ignore"):
            first, last = ((array[:, step] != 0).any(axis=1) for step in (0, -1))
        left += int(np.sum(~first & last))
        right += int(np.sum(first & ~last))
    return left, right


def unpadded(frames: np.ndarray) -> np.ndarray:
    """A copy [T, C] float32 that no longer keeps the file mapped; [0, C] if all is zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(frames if (frames != 0).any() else frames[:0], np.float32)


def strings(values: Iterable[Any]) -> list[str | None]:
    """Names or sentences as strings that UTF-8 can hold; None for what is none.

    Each different one is decoded once: a small file can name one long string a million times.
    """
    known: dict[Any, str | None] = {}
    found: list[str | None] = []
    for value in values:
        if not isinstance(value, str | bytes | int | np.integer):
            found.append(None)
            continue
        if value not in known:
            known[value] = _text(value)
        found.append(known[value])
    return found


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return str(int(value))


def _row(entry: Any) -> tuple[Any, ...]:
    """A row as a tuple of one or three; empty if it is none."""
    if isinstance(entry, np.ndarray) and entry.ndim <= 1 and entry.size <= 3:
        entry = entry.reshape(-1).tolist()
    if not isinstance(entry, list | tuple):
        return (entry,)
    return tuple(entry) if len(entry) in (1, 3) else ()
