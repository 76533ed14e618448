"""Reads a folder of CMU-MultimodalSDK `.csd` files: CMU-MOSI, CMU-MOSEI and what is laid out alike.

What each file is, is told by looking into it: `words` are strings; `labels` have "label" in their
root's name, and one column (the sentiment) or seven (then six emotions, not read). The features:
`text` is GloVe, `audio` COVAREP, `vision` FACET, or OpenFace where there is no FACET; any other
sequence is a modality by its root's name. Words, or without them GloVe's own intervals, are the
steps that all modalities are aligned to; `alignment` says how, and where the SDK does otherwise.
"""

import collections
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from msa_jax.data.schema import SCORE_RANGE, SPLITS, Utterance
from msa_jax.data.sources import alignment, columns
from msa_jax.data.sources import scores as raw
from msa_jax.data.sources.computational_sequence import ComputationalSequence, Rows, open_sequence
from msa_jax.data.sources.contract import Dropped, Report, Source
from msa_jax.data.sources.folds import load_folds
from msa_jax.errors import UserError

# Why an utterance is left out.
NO_FOLD = "its video is in no fold"
NO_WORDS = "its video has no words"
NO_SCORE = "its score is not a number"
NO_WORD = "no word falls within it"

# The split that is given for an utterance of a video in no fold.
NO_SPLIT = "none"
PAUSE = "sp"

_ROLE_BY_ROOT = {
    "label": "labels",
    "phone": "phones",
    "openface": "openface",
    "facet": "vision",
    "covarep": "audio",
    "coavarep": "audio",  # so in early releases of CMU-MOSEI
    "glove": "text",
}
_ROLE_BY_CHANNELS = {300: "text", 74: "audio", 35: "vision", 47: "vision", 713: "openface"}
_NO_MODALITY = ("words", "labels", "phones")
_LABEL_COLUMNS = (1, 7)
# Of a video: far more than anyone has labelled, and few enough to compare with one another.
_MAX_SEGMENTS = 10_000

_RULES = (
    "Steps are words: a modality's step is the mean of the frames that overlap the word, without "
    "non-finite values (the CMU-MultimodalSDK averages them in); a word belongs to the segment "
    "that holds its midpoint, or that lies within the word; segments that overlap in part meet in "
    "the middle of what they share (the SDK gives its words to both)."
)

_Readers = Mapping[str, Callable[[str], Rows]]


class CsdFolder(Source):
    """A checked folder of computational sequences, read video by video.

    See `Source` for its attributes; its splits are those that any labelled video is in.
    """

    format = "csd"

    def __init__(self, path: str) -> None:
        """Checks the structure of every file.

        Args:
          path: the folder. Its own `folds.json` comes before the standard folds.

        Raises:
          UserError: if files are missing, damaged, unsafe or unknown, two play one role, or no
            labelled video is in any fold.
        """
        self.path = path
        self._sequences = _sequences(Path(path))
        phones = self._sequences.pop("phones", None)
        modalities = sorted(set(self._sequences) - set(_NO_MODALITY))
        self._check_roles(modalities)
        self.channels = {name: self._sequences[name].channels for name in modalities}
        self._pivot = "words" if "words" in self._sequences else "text"
        rows = self._sequences["labels"].rows
        folds = load_folds(Path(path), rows)
        self._videos: dict[str, list[str]] = {
            split: videos
            for split in SPLITS
            if (videos := [v for v in rows if folds.split_of.get(v) == split])
        }
        if not self._videos:
            raise UserError(
                f"{path}: none of its {len(rows)} labelled videos, for example {min(rows)!r}, is "
                f"in {folds.name}. Add their ids there."
            )
        self.splits = tuple(self._videos)
        self.report = Report(
            found={split: sum(rows[v] for v in self._videos[split]) for split in self.splits},
            dropped=[
                Dropped(f"{video}[{k}]", NO_SPLIT, NO_FOLD)
                for video in rows
                if video not in folds.split_of
                for k in range(rows[video])
            ],
        )
        self._structure_notes = self._noted_structure(folds.name, phones)
        self._counts: collections.Counter[str] = collections.Counter()
        self._clipped: list[str] = []
        self._absent: dict[str, list[str]] = {name: [] for name in modalities}
        self._write_notes()

    def utterances(self, split: str) -> Iterator[Utterance]:
        """The utterances of a split: videos by name, their segments by start.

        Segment k of a video, from 0, has the id `video[k]` and the `segment` k + 1; the SDK counts
        the rows of the labels file instead, which are not always in order. All modalities have a
        step [T, C] for each of the segment's T words, but for one that the video has no entry of:
        that is absent, [0, C].

        Raises:
          UserError: if a file is damaged, or holds an interval or a word that cannot be read or a
            score of another scale; the message names the file and the video.
        """
        with contextlib.ExitStack() as stack:
            readers = {
                name: stack.enter_context(sequence.reader())
                for name, sequence in self._sequences.items()
            }
            for video in self._videos.get(split, ()):
                yield from self._segments(video, split, readers)
        self._write_notes()

    def _segments(self, video: str, split: str, readers: _Readers) -> Iterator[Utterance]:
        intervals, labels = readers["labels"](video)
        order = alignment.in_time_order(intervals)
        intervals, scores = intervals[order], labels[order, 0]
        ids = [f"{video}[{k}]" for k in range(len(scores))]
        self._check_scores(scores, ids)
        if video not in self._sequences[self._pivot].rows:
            self.report.dropped += [Dropped(name, split, NO_WORDS) for name in ids]
            return
        words, spoken, transcript = self._words(video, readers)
        members = [
            spoken[rows]
            for rows in alignment.words_of_segments(words[spoken], self._spans(intervals))
        ]
        reasons = [
            NO_SCORE if not np.isfinite(score) else "" if len(rows) else NO_WORD
            for score, rows in zip(scores, members, strict=True)
        ]
        self.report.dropped += [
            Dropped(name, split, why) for name, why in zip(ids, reasons, strict=True) if why
        ]
        kept = [k for k, why in enumerate(reasons) if not why]
        if not kept:
            return
        clipped, rows = raw.clip(scores[kept])
        self._clipped += [f"{scores[kept[row]]:.4g} of {ids[kept[row]]}" for row in rows]
        used = np.unique(np.concatenate([members[k] for k in kept]))
        self._counts["words"] += len(used)
        steps = {name: self._steps(name, video, words, used, readers) for name in self.channels}
        for k, score in zip(kept, clipped, strict=True):
            yield Utterance(
                id=ids[k],
                frames={
                    name: frames[members[k]] if len(frames) else frames
                    for name, frames in steps.items()
                },
                score=float(score),
                video_id=video,
                segment=k + 1,
                start=float(intervals[k, 0]),
                end=float(intervals[k, 1]),
                transcript=" ".join(transcript[row] for row in members[k]) if transcript else "",
            )

    def _words(self, video: str, readers: _Readers) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The words' spans [W, 2] in time order, the rows that are no pauses, and what they say."""
        intervals, said = readers[self._pivot](video)
        order = alignment.in_time_order(intervals)
        spans = self._spans(intervals[order])
        if self._pivot != "words":
            return spans, np.arange(len(spans)), []
        transcript = [said[row] for row in order]
        spoken = np.flatnonzero([word != PAUSE for word in transcript])
        self._counts["pauses"] += len(transcript) - len(spoken)
        return spans, spoken, transcript

    def _steps(
        self, name: str, video: str, words: np.ndarray, used: np.ndarray, readers: _Readers
    ) -> np.ndarray:
        """A modality's value at each word [W, C] of a video; [0, C] where it is absent."""
        if video not in self._sequences[name].rows:
            self._absent[name].append(video)
            return np.zeros((0, self.channels[name]), np.float32)
        intervals, features = readers[name](video)
        order = alignment.in_time_order(intervals)
        if not np.array_equal(order, np.arange(len(order))):
            intervals, features = intervals[order], features[order]
        means = alignment.mean_over_words(features, self._spans(intervals), words)
        self._counts[f"{name} empty"] += int((means.frames[used] == 0).sum())
        self._counts[f"{name} non-finite"] += int(means.non_finite[used].sum())
        return means.values

    def _spans(self, intervals: np.ndarray) -> np.ndarray:
        self._counts["reversed"] += int((intervals[:, 1] < intervals[:, 0]).sum())
        return alignment.spans(intervals)

    def _check_scores(self, scores: np.ndarray, ids: list[str]) -> None:
        wrong = raw.wrong(scores)
        wrong = wrong[np.isfinite(scores[wrong])]  # the others are dropped
        if len(wrong):
            low, high = SCORE_RANGE
            shown = columns.listed_rows(wrong, lambda row: f"{scores[row]:.4g} for {ids[row]!r}")
            raise UserError(
                f"{self._sequences['labels'].path}: scores are outside [{low:g}, {high:g}]: "
                f"{shown}. Expected sentiment on that scale; correct or remove these rows."
            )

    def _check_roles(self, modalities: list[str]) -> None:
        found = ", ".join(f"{s.path.name} ({name})" for name, s in sorted(self._sequences.items()))
        if "labels" not in self._sequences:
            raise UserError(
                f"{self.path} has no labels: expected a .csd file whose root group has 'label' in "
                f"its name, such as CMU_MOSI_Opinion_Labels.csd. Found: {found}."
            )
        if not {"words", "text"} & set(self._sequences):
            raise UserError(
                f"{self.path} has neither words nor word vectors, which everything is aligned to: "
                f"expected such as CMU_MOSEI_TimestampedWords.csd. Found: {found}."
            )
        if not modalities:
            raise UserError(
                f"{self.path} has no features: expected at least one .csd file of word vectors, "
                f"COVAREP, FACET or OpenFace. Found: {found}."
            )

    def _noted_structure(self, folds: str, phones: ComputationalSequence | None) -> list[str]:
        """What can be said before any video is read."""
        labelled = self._sequences["labels"].rows
        others: set[str] = set().union(*(s.rows for s in self._sequences.values()))
        notes = [
            f"Splits: {folds}.",
            _RULES,
            *(
                f"{name} was read from {self._sequences[name].path.name} "
                f"({self._sequences[name].root!r})."
                for name in sorted(self._sequences)
            ),
        ]
        if self._pivot != "words":
            notes.append("There is no words file: pauses cannot be told and transcripts are empty.")
        if phones is not None:
            notes.append(f"{phones.path.name} holds phones and was not read.")
        if unlabelled := sorted(others - set(labelled)):
            count = columns.counted(len(unlabelled), "video has", "videos have")
            notes.append(f"{count} no labels: {columns.listed(unlabelled, 3)}.")
        if self.report.dropped:
            videos = sorted({entry.id.split("[")[0] for entry in self.report.dropped})
            count = columns.counted(len(videos), "labelled video is", "labelled videos are")
            notes.append(f"{count} in no fold: {columns.listed(videos, 3)}.")
        return notes

    def _write_notes(self) -> None:
        """The report's notes with the counts so far."""
        counts, notes = self._counts, list(self._structure_notes)
        if counts["pauses"]:
            notes.append(f"{counts['pauses']} pauses ({PAUSE!r}) between words were left out.")
        if counts["reversed"]:
            notes.append(
                f"{counts['reversed']} intervals end before they start: taken as instants."
            )
        for name in self.channels:
            if empty := counts[f"{name} empty"]:
                notes.append(
                    f"{name}: {empty} of {counts['words']} words overlap no frame and are zeros."
                )
            if values := counts[f"{name} non-finite"]:
                notes.append(f"{name}: {values} non-finite values were left out of the means.")
            if videos := self._absent[name]:
                count = columns.counted(len(videos), "video")
                notes.append(f"{name} is absent in {count}: {columns.listed(videos, 3)}.")
        if self._clipped:
            notes.append(raw.note(len(self._clipped), columns.listed(self._clipped, 3)))
        self.report.notes = notes


def _sequences(folder: Path) -> dict[str, ComputationalSequence]:
    """The folder's files by role: words, labels, phones or a modality."""
    try:
        # Names with a leading dot are what some systems keep beside a file.
        paths = sorted(
            item
            for item in folder.iterdir()
            if item.suffix.lower() == ".csd" and not item.name.startswith(".")
        )
    except OSError as error:
        raise UserError(
            f"cannot read the folder {folder}: {error.strerror or error}. Check the path."
        ) from error
    if not paths:
        raise UserError(f"{folder} holds no .csd file: expected those of the CMU-MultimodalSDK.")
    sequences: dict[str, ComputationalSequence] = {}
    for path in paths:
        sequence = open_sequence(path)
        role = _role(sequence)
        if role in sequences:
            raise UserError(
                f"{folder}: both {sequences[role].path.name} ({sequences[role].root!r}) and "
                f"{path.name} ({sequence.root!r}) are {role}: expected one of them. Move the "
                "other out of the folder."
            )
        sequences[role] = sequence
    if "openface" in sequences and "vision" not in sequences:
        sequences["vision"] = sequences.pop("openface")
    return sequences


def _role(sequence: ComputationalSequence) -> str:
    root = sequence.root.lower()
    role = next((role for part, role in _ROLE_BY_ROOT.items() if part in root), "")
    if role == "labels":
        if sequence.strings or sequence.channels not in _LABEL_COLUMNS:
            raise UserError(
                f"{sequence.path}: the labels {sequence.root!r} have {sequence.channels} columns"
                f"{' of strings' if sequence.strings else ''}: expected 1, the sentiment, or 7, "
                "the sentiment and six emotions. Move the file out of the folder."
            )
        video, most = max(sequence.rows.items(), key=lambda item: item[1])
        if most > _MAX_SEGMENTS:
            raise UserError(
                f"{sequence.path}: {video!r} has {most:,} labelled segments: expected at most "
                f"{_MAX_SEGMENTS:,}. Correct or remove the entry."
            )
        return role
    if sequence.strings:
        return "phones" if role == "phones" else "words"
    role = role if role not in ("", "phones") else _ROLE_BY_CHANNELS.get(sequence.channels, "")
    role = role or re.sub(r"\W", "_", root, flags=re.ASCII)
    if columns.is_taken(role) or role in _NO_MODALITY or not role.isidentifier():
        raise UserError(
            f"{sequence.path}: its root {sequence.root!r} cannot name a modality. Rename the "
            "group, or move the file out of the folder."
        )
    return role
