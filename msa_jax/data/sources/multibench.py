"""Reads the affect pickles of MultiBench and MulT (mosei_senti_data.pkl, mosi_raw.pkl, ...).

Layout: `{train, valid (or dev), test: {vision, audio, text [N, T, C], labels, id}}`, with labels
[N], [N, 1], [N, 1, 1] or [N, 1, 7] (sentiment first) and id [N] of names such as `video[3]` or
[N, 3] of (video, start, end). Frames are padded with zeros, on the left in the published files.

After pliang279/MultiBench, datasets/affect/get_data.py: all modalities are cut at the first text
step that is not zero, and utterances without any are left out (16,326 of MOSEI's train split become
16,265). Where the modalities differ in T they are not aligned, and each is cut at its own first
step. We differ: files padded on the right are recognised and lose their trailing zeros (of all
modalities together where aligned), a modality of zeros alone is absent, and nothing is normalised.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from msa_jax.data.schema import Utterance
from msa_jax.data.sources import padded
from msa_jax.data.sources.contract import Dropped

_KEYS = {*padded.MODALITIES, "labels", "id"}


def matches(content: Any) -> bool:
    """Whether the content of a pickle is of this layout, complete or not."""
    return any(len(_KEYS & found) > 2 for found in padded.keys(content))


@dataclasses.dataclass(frozen=True)
class _Name:
    id: str
    video_id: str
    segment: int = 0
    start: float = math.nan
    end: float = math.nan


class MultiBenchPickle(padded.PaddedPickle):
    """A checked file; see `Source` for its attributes.

    Where ids are (video, start, end), the id is `video[k]`: k from 0 in the order of start within
    the video, over all splits of the file. The same clip twice has the same id. `padded.clips`
    tells how other ids are read.
    """

    format = "multibench"

    def __init__(self, path: str, content: Any = None) -> None:
        """Checks the file, ids and labels too; see `padded.PaddedPickle`."""
        super().__init__(path, content)
        counts = {split: len(arrays["text"]) for split, arrays in self._arrays.items()}
        self._names = _names(self._tables, counts)
        self._scores = {
            split: table.scores("labels", [n.id for n in self._names[split]], self.report)
            for split, table in self._tables.items()
        }
        self._left = self._padded_left()

    def utterances(self, split: str) -> Iterator[Utterance]:
        """The utterances of a split in the file's order, without those that have no text."""
        arrays, names = self._arrays[split], self._names[split]
        ids = padded.unique([name.id for name in names], split, self.report)
        self.report.found[split] = len(names)
        absent = dict.fromkeys(arrays, 0)
        for row, name in enumerate(names):
            rows = {modality: array[row] for modality, array in arrays.items()}
            if padded.nonzero(rows["text"]) == (0, 0):
                self.report.dropped.append(Dropped(ids[row], split, "no text"))
                continue
            frames = {m: padded.unpadded(part) for m, part in self._cut(rows).items()}
            for modality in absent:
                absent[modality] += not len(frames[modality])
            yield Utterance(
                id=ids[row],
                frames=frames,
                score=float(self._scores[split][row]),
                video_id=name.video_id,
                segment=name.segment,
                start=name.start,
                end=name.end,
            )
        self._note_absent(split, absent)

    def _cut(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The frames [T, C] of each modality without the padding."""
        spans = {modality: padded.nonzero(frames) for modality, frames in rows.items()}
        if len({len(frames) for frames in rows.values()}) == 1:
            last = max(stop for _, stop in spans.values())
            spans = dict.fromkeys(rows, (spans["text"][0], last))
        return {
            modality: frames[spans[modality][0] :] if self._left else frames[: spans[modality][1]]
            for modality, frames in rows.items()
        }

    def _padded_left(self) -> bool:
        """Decides by the texts that have zeros at one end only; also notes it."""
        left, right = padded.sides(arrays["text"] for arrays in self._arrays.values())
        if left + right:
            side, count = ("left", left) if left >= right else ("right", right)
            self.report.notes.append(
                f"Padding is taken to stand on the {side}: so do the zeros of {count} of the "
                f"{left + right} texts that have zeros at one end only."
            )
        return left >= right


def _names(tables: Mapping[str, padded.Table], counts: Mapping[str, int]) -> dict[str, list[_Name]]:
    """A name for each utterance, numbered over the whole file."""
    rows = {
        split: [
            (name, _times(table, name, rest) if rest else None)
            for name, rest in table.names("id", counts[split])
        ]
        for split, table in tables.items()
    }
    everything = [row for found in rows.values() for row in found]
    videos: dict[str, set[tuple[float, float]]] = {}
    for name, times in everything:
        if times:
            videos.setdefault(name, set()).add(times)
    orders = {
        name: {times: order for order, times in enumerate(sorted(found))}
        for name, found in videos.items()
    }
    plain = list(dict.fromkeys(name for name, times in everything if not times))
    clips = dict(zip(plain, padded.clips(plain), strict=True))

    def named(name: str, times: tuple[float, float] | None) -> _Name:
        if times is None:
            return _Name(name, *clips[name])
        order = orders[name][times]
        return _Name(f"{name}[{order}]", name, order + 1, *times)

    return {split: [named(*row) for row in found] for split, found in rows.items()}


def _times(table: padded.Table, name: str, rest: tuple[Any, ...]) -> tuple[float, float]:
    """Start and end in seconds, as numbers or strings in the file."""
    try:
        start, end = (
            float(value) if isinstance(value, float | np.floating) else float(str(written)[:40])
            for value, written in zip(rest, padded.strings(rest), strict=True)
        )
    except ValueError:
        start = end = math.nan
    if not math.isfinite(start) or not math.isfinite(end):
        raise table.refusal(
            "id", f"has no start and end in seconds beside {name!r}: expected (video, start, end)."
        )
    return start, end
