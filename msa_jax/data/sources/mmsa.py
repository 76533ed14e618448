"""Reads the feature pickles of MMSA (aligned_50.pkl and unaligned_50.pkl of MOSI and MOSEI, SIMS).

Layout, from thuiar/MMSA, src/MMSA/data_loader.py: `{train, valid, test: {text [N, T, C], text_bert
[N, 3, T] (token ids, mask, segment), audio, vision [N, T, C], audio_lengths, vision_lengths [N],
regression_labels [N], id [N] (`video$_$clip`), raw_text [N]}}`, padded with zeros on the right.
Lengths stand in the mask and the two lists, which aligned files lack: there the text's length holds
for all. `text_bert`, the lists and `raw_text` may be missing: zeros at the end are padding then (of
all modalities together where they have the same T). `classification_labels` and the labels of
single modalities (SIMS) are not read.

We differ from MMSA, which feeds padding to its models: frames beyond the length are left out, and a
modality of zeros alone is absent. What the file says of lengths is held against its frames: a
modality that is padded on the left loses its leading zeros, whatever its lengths say, and frames
left out that were not zeros are counted. (MMSA takes the first frame that sums to 0 for the end,
data/getLengths.py, and its aligned frames come from others.)
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from msa_jax.data.schema import Utterance
from msa_jax.data.sources import columns, padded
from msa_jax.data.sources.opening import checksum

# SHA-256 of the feature files, from MMSA's README.
PUBLISHED = {
    "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524": "MOSI unaligned_50.pkl",
    "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9": "MOSI aligned_50.pkl",
    "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f": "MOSEI unaligned_50.pkl",
    "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791": "MOSEI aligned_50.pkl",
    "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f": "SIMS unaligned_39.pkl",
}
_OWN_KEYS = {"regression_labels", "classification_labels", "text_bert", "raw_text"}


def matches(content: Any) -> bool:
    """Whether the content of a pickle is of this layout, complete or not."""
    return any(_OWN_KEYS & found and "labels" not in found for found in padded.keys(content))


class MmsaPickle(padded.PaddedPickle):
    """A checked file; see `Source` for its attributes.

    Ids are kept as written. The clip's number in its video becomes `segment`, counted from 1 (see
    `padded.clips`).
    """

    format = "mmsa"

    def __init__(self, path: str, content: Any = None) -> None:
        """Checks the file, labels, lengths and masks too; see `padded.PaddedPickle`."""
        super().__init__(path, content)
        self._ids: dict[str, list[str]] = {}
        self._scores: dict[str, np.ndarray] = {}
        self._transcripts: dict[str, list[str]] = {}
        self._lengths: dict[str, dict[str, np.ndarray]] = {}
        for split, table in self._tables.items():
            count = len(self._arrays[split]["text"])
            self._ids[split] = [name for name, _ in table.names("id", count)]
            self._scores[split] = table.scores("regression_labels", self._ids[split], self.report)
            if "raw_text" in table.columns:
                self._transcripts[split] = table.texts("raw_text", count)
            self._lengths[split] = _lengths(table, self._arrays[split])
        names = list(dict.fromkeys(name for ids in self._ids.values() for name in ids))
        self._clips = dict(zip(names, padded.clips(names), strict=True))
        self._left = self._padded_left()

    def utterances(self, split: str) -> Iterator[Utterance]:
        """The utterances of a split, in the file's order.

        Raises:
          UserError: if the file can no longer be read.
        """
        if not self.report.found:
            self._note_origin()
        arrays, names = self._arrays[split], self._ids[split]
        ids = padded.unique(names, split, self.report)
        self.report.found[split] = len(ids)
        absent, cut = dict.fromkeys(arrays, 0), {"audio": 0, "vision": 0}
        for row, name in enumerate(names):
            parts = {modality: array[row] for modality, array in arrays.items()}
            spans = self._spans(split, row, parts)
            frames = {m: padded.unpadded(part[slice(*spans[m])]) for m, part in parts.items()}
            for modality in absent:
                absent[modality] += not len(frames[modality])
            for modality in cut:
                cut[modality] += padded.nonzero(parts[modality])[1] > spans[modality][1]
            video_id, segment = self._clips[name]
            yield Utterance(
                id=ids[row],
                frames=frames,
                score=float(self._scores[split][row]),
                video_id=video_id,
                segment=segment,
                transcript=self._transcripts[split][row] if split in self._transcripts else "",
            )
        self._note_absent(split, absent)
        self.report.notes += [
            f"{split}: {modality} is not zero beyond its length in {count} of {len(ids)} "
            "utterances: those frames are left out."
            for modality, count in cut.items()
            if count
        ]

    def _spans(
        self, split: str, row: int, parts: Mapping[str, np.ndarray]
    ) -> dict[str, tuple[int, int]]:
        """The first step of each modality of an utterance that is no padding, and the end."""
        told = {modality: int(found[row]) for modality, found in self._lengths[split].items()}
        spans = {modality: padded.nonzero(part) for modality, part in parts.items()}
        stops = {m: stop for m, (_, stop) in spans.items() if m not in self._left}
        if stops and len({len(part) for part in parts.values()}) == 1:
            stops = dict.fromkeys(stops, told.get("text", max(stops.values())))
        stops |= told
        return {m: spans[m] if m in self._left else (0, stops[m]) for m in parts}

    def _padded_left(self) -> set[str]:
        """The modalities that most often have zeros at the start alone; also notes them."""
        found = set()
        for modality in padded.MODALITIES:
            left, right = padded.sides(arrays[modality] for arrays in self._arrays.values())
            if left > right:
                found.add(modality)
                self.report.notes.append(
                    f"{modality} is taken to be padded on the left: so stand the zeros of {left} "
                    f"of the {left + right} utterances that have them at one end only. Zeros at "
                    "either end are left out, and lengths in the file not used."
                )
        return found

    def _note_origin(self) -> None:
        """Notes whether the file is a published one, and a scale that is not CMU-MOSEI's."""
        found = checksum(self.path)
        self.report.notes.append(
            f"The checksum is that of MMSA's {PUBLISHED[found]}."
            if found in PUBLISHED
            else f"The checksum (SHA-256 {found[:12]}...) is none of those that MMSA published."
        )
        if all(np.abs(scores).max() <= 1 for scores in self._scores.values()):
            self.report.notes.append(
                "All scores are in [-1, 1], the scale of CH-SIMS: they are kept as they are, "
                "although classes are cut on [-3, 3]."
            )


def _lengths(table: padded.Table, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`{modality: [N]}` of the modalities whose lengths the file tells."""
    lengths = {}
    if "text_bert" in table.columns:
        lengths["text"] = _text_lengths(table, arrays["text"])
    for modality in ("audio", "vision"):
        key, array = f"{modality}_lengths", arrays[modality]
        if key not in table.columns:
            continue
        rows = table.rows(key, len(array))
        bad = [row for row, found in enumerate(rows) if not _is_length(found, array.shape[1])]
        if bad:
            shown = columns.listed([f"row {row}" for row in bad], 3)
            raise table.refusal(
                key,
                f"is no whole number in [0, {array.shape[1]}], the steps of {modality}, in "
                f"{len(bad)} rows: {shown}. Correct them, or remove {key} to cut at the last frame "
                "that is not zero.",
            )
        lengths[modality] = np.array([int(found[0]) for found in rows])
    return lengths


def _is_length(row: tuple[Any, ...], steps: int) -> bool:
    if len(row) != 1 or not isinstance(row[0], int | float | np.integer | np.floating):
        return False
    return bool(0 <= row[0] <= steps) and int(row[0]) == row[0]


def _text_lengths(table: padded.Table, text: np.ndarray) -> np.ndarray:
    """Steps [N] of each text: the ones of its mask, the second row of `text_bert`."""
    tokens = table.column("text_bert")
    expected = (len(text), 3, text.shape[1])
    if (
        not isinstance(tokens, np.ndarray)
        or tokens.dtype.kind not in "fiub"
        or tokens.shape != expected
    ):
        found = tokens.shape if isinstance(tokens, np.ndarray) else type(tokens).__name__
        raise table.refusal(
            "text_bert",
            f"is {found}: expected numbers {expected}, the token ids, the mask and the segment of "
            "each step of text.",
        )
    mask = tokens[:, 1]
    with np.errstate(invalid="ignore"):
        lengths = np.sum(mask != 0, axis=1)
        ones = np.arange(mask.shape[1]) < lengths[:, None]
        wrong = np.flatnonzero((mask != ones).any(axis=1))
    if len(wrong):
        raise table.refusal(
            "text_bert",
            f"has a mask (its second row) that is not ones and then zeros in {len(wrong)} rows, "
            f"first in row {wrong[0]}. The file is damaged, or not padded on the right.",
        )
    return lengths
