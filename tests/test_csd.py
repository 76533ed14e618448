"""Folders of `.csd` files: what is read from them, against plain loops."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from msa_jax.benchmarks import alignment as benchmark
from msa_jax.data.schema import Utterance
from msa_jax.data.sources import csd, open_source
from msa_jax.errors import UserError
from tests.conftest import SHARED
from tests.csd_files import scene, write_csd, write_scene


def span(interval: np.ndarray) -> tuple[float, float]:
    """An interval, or for an instant the shortest that begins there."""
    start, end = interval
    return float(start), float(max(end, np.nextafter(start, np.float32(99))))


def holds(segment: np.ndarray, segments: np.ndarray, instant: float) -> bool:
    start, end = segment
    if not start <= instant < end:
        return False
    for other_start, other_end in segments:
        if start < other_start < end < other_end and instant >= (other_start + end) / 2:
            return False
        if other_start < start < other_end < end and instant < (start + other_end) / 2:
            return False
    return True


def own_words(segment: np.ndarray, segments: np.ndarray, words: list[Any]) -> list[Any]:
    """The words `(start, end, ...)` whose midpoint a segment holds, or the one it lies within."""
    own = [word for word in words if holds(segment, segments, (word[0] + word[1]) / 2)]
    start, end = span(segment)
    return own or [word for word in words if word[0] <= start and word[1] >= end]


def slow_mean(features: np.ndarray, frames: np.ndarray, word: tuple[float, float]) -> list[float]:
    mean = []
    for column in range(features.shape[1]):
        values = [
            float(features[row, column])
            for row, (start, end) in enumerate(map(span, frames))
            if start < word[1] and end > word[0] and np.isfinite(features[row, column])
        ]
        mean.append(sum(values) / len(values) if values else 0.0)
    return mean


@functools.cache
def slow_utterances(video: str) -> dict[str, Any]:
    """What a video's utterances should be, by id, read off with plain loops."""
    made = scene()
    said, spans = made["words"][video]
    words = sorted(
        (*span(interval), word.decode())
        for interval, word in zip(spans, said[:, 0], strict=True)
        if word != b"sp"
    )
    scores, segments = made["labels"][video]
    expected = {}
    for k, row in enumerate(sorted(range(len(segments)), key=lambda row: tuple(segments[row]))):
        inside = own_words(segments[row], segments, words)
        if not inside or np.isnan(scores[row, 0]):
            continue
        frames = {
            name: np.array([slow_mean(*made[name][video], word[:2]) for word in inside])
            for name in ("text", "audio", "vision")
            if video in made[name]
        }
        expected[f"{video}[{k}]"] = {
            "score": min(float(scores[row, 0]), 3.0),
            "place": (k + 1, *map(float, segments[row])),
            "transcript": " ".join(word[2] for word in inside),
            "frames": frames,
        }
    return expected


def everything(source: csd.CsdFolder) -> dict[str, list[Utterance]]:
    return {split: list(source.utterances(split)) for split in source.splits}


def as_parts(entries: Any) -> Any:
    """Every video in two parts, `video[0]` and `video[1]`, as some of the SDK's files have them."""
    return {
        f"{video}[{part}]": (features[rows], intervals[rows])
        for video, (features, intervals) in entries.items()
        for part, rows in ((1, slice(9, None)), (0, slice(9)))
    }


def in_double(entries: Any) -> Any:
    return {video: (f.astype(float), i.astype(float)) for video, (f, i) in entries.items()}


def same(entries: Any) -> Any:
    return entries


@pytest.mark.parametrize("store", [same, as_parts, in_double])
@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "shuffle": True}])
def test_utterances_are_what_plain_loops_say(
    tmp_path: Path, store: Callable[[Any], Any], options: dict[str, Any]
) -> None:
    made = scene()
    numbers = {role: store(entries) for role, entries in made.items() if role != "words"}
    source = csd.CsdFolder(str(write_scene(tmp_path, {**made, **numbers}, **options)))
    read = everything(source)
    assert source.channels == {"audio": 74, "text": 6, "vision": 35}
    assert source.splits == ("train", "valid", "test")
    found = {split: list(dict.fromkeys(u.video_id for u in us)) for split, us in read.items()}
    assert found == {"train": ["abe", "zoe"], "valid": ["bea"], "test": ["cal"]}
    for split, utterances in read.items():
        expected: dict[str, Any] = {}
        for video in found[split]:
            expected |= slow_utterances(video)
        assert [u.id for u in utterances] == list(expected)
        for utterance in utterances:
            right = expected[utterance.id]
            assert utterance.score == pytest.approx(right["score"])
            assert (utterance.segment, utterance.start, utterance.end) == right["place"]
            assert utterance.transcript == right["transcript"]
            assert set(utterance.frames) == {"audio", "text", "vision"}
            for name, frames in utterance.frames.items():
                assert frames.dtype == np.float32
                if name not in right["frames"]:
                    assert frames.shape == (0, source.channels[name])
                else:
                    np.testing.assert_allclose(frames, right["frames"][name], atol=1e-5)
    lengths = [len(u.frames["vision"]) for us in read.values() for u in us]
    assert 1 in lengths  # a segment of one word


def test_the_report_names_what_was_left_out_and_why(tmp_path: Path) -> None:
    source = csd.CsdFolder(str(write_scene(tmp_path, scene())))
    read = everything(source)
    report = source.report
    assert report.found == {"train": 16, "valid": 8, "test": 8}
    reasons = {(entry.split, entry.reason) for entry in report.dropped}
    assert {entry.id for entry in report.dropped if entry.reason == csd.NO_FOLD} == {
        f"{video}[{k}]" for video in ("dan", "eve") for k in range(8)
    }
    for split, utterances in read.items():
        assert {(split, csd.NO_SCORE), (split, csd.NO_WORD)} <= reasons
        dropped = sum(entry.split == split for entry in report.dropped)
        assert len(utterances) + dropped == report.found[split]
        assert max(utterance.score for utterance in utterances) == 3.0
    notes = " ".join(report.notes)
    for note in (
        "Splits: ",
        "2 labelled videos are in no fold: dan, eve.",
        "1 video has no labels: fay.",
        "audio is absent in 1 video: cal.",
        "4 scores were clipped to [-3, 3]: 3.333 of abe[0], 3.333 of zoe[0], 3.333 of bea[0] and 1",
        "pauses ('sp') between words were left out.",
        "non-finite values were left out of the means.",
        "words overlap no frame and are zeros.",
    ):
        assert note in notes
    json.dumps(report.to_json())


def test_labels_of_another_scale_are_refused(tmp_path: Path) -> None:
    made = scene()
    labels = {video: (20 * scores, spans) for video, (scores, spans) in made["labels"].items()}
    source = csd.CsdFolder(str(write_scene(tmp_path, {**made, "labels": labels})))
    with pytest.raises(UserError, match=r"labels.csd: scores .* \[-3, 3\]: 66.67 for 'abe\[0\]'"):
        everything(source)


def test_raw_labels_up_to_5_are_clipped(tmp_path: Path) -> None:
    made = scene()
    scores, spans = made["labels"]["bea"]
    made["labels"]["bea"] = np.where(scores > 3, 5, scores), spans
    source = csd.CsdFolder(str(write_scene(tmp_path, made)))
    assert max(utterance.score for utterance in source.utterances("valid")) == 3.0
    assert "1 score was clipped to [-3, 3]: 5 of bea[0]." in source.report.notes


def test_a_video_without_words_is_dropped_and_named(tmp_path: Path) -> None:
    folder = write_scene(tmp_path, scene())
    (folder / "folds.json").write_text(json.dumps({"test": ["eve", "cal"]}))
    source = csd.CsdFolder(str(folder))
    assert {u.video_id for u in everything(source)["test"]} == {"cal"}
    dropped = {entry.id for entry in source.report.dropped if entry.reason == csd.NO_WORDS}
    assert dropped == {f"eve[{k}]" for k in range(8)}


def test_without_words_the_word_vectors_own_intervals_are_the_steps(tmp_path: Path) -> None:
    made = scene()
    (vectors, spans), segments = made["text"]["bea"], made["labels"]["bea"][1]
    del made["words"]
    source = csd.CsdFolder(str(write_scene(tmp_path, made)))
    words = sorted((*span(interval), row) for row, interval in enumerate(spans))
    for utterance in source.utterances("valid"):
        segment = np.array([utterance.start, utterance.end], np.float32)
        rows = [row for *_, row in own_words(segment, segments, words)]
        np.testing.assert_array_equal(utterance.frames["text"], vectors[rows].astype(np.float32))
        assert len(utterance.frames["audio"]) == len(rows)
        assert utterance.transcript == ""
    assert "There is no words file" in " ".join(source.report.notes)


def test_moseis_standard_folds_apply_to_its_ids(tmp_path: Path) -> None:
    names = ["-3g5yACwYnA", "-571d8cVauQ", "-6rXp3zJ3kc", "nobody"]
    folder = benchmark.write_mosei_like(tmp_path, len(names), names=names, mean_seconds=9.0)
    source = csd.CsdFolder(str(folder))
    read = everything(source)
    assert source.channels == {"audio": 74, "text": 300, "vision": 35}
    assert "CMU-MOSEI" in source.report.notes[0]
    assert {entry.id.split("[")[0] for entry in source.report.dropped if entry.split == "none"} == {
        "nobody"
    }
    assert [u.video_id for u in read["valid"]][:1] == ["-571d8cVauQ"]
    assert all(np.isfinite(f).all() for us in read.values() for u in us for f in u.frames.values())


def test_cmu_mosis_own_labels_make_its_2199_utterances(tmp_path: Path) -> None:
    labels = SHARED / "CMU_MOSI_Opinion_Labels.csd"
    if not labels.exists():
        pytest.skip(f"needs {labels}")
    shutil.copy(labels, tmp_path)
    words, vectors = {}, {}
    with h5py.File(labels) as file:
        given = {
            video: (entry["features"][()], entry["intervals"][()])
            for video, entry in file["Opinion Segment Labels/data"].items()
        }
    for video, (_, intervals) in given.items():
        edges = np.arange(0, intervals.max() + 0.2, 0.2, np.float32)
        spans = np.stack([edges[:-1], edges[1:]], axis=1)
        words[video] = np.array([f"{i}" for i in range(len(spans))], "S32")[:, None], spans
        vectors[video] = spans[:, :1], spans
    write_csd(tmp_path / "words.csd", "words", words)
    write_csd(tmp_path / "vectors.csd", "glove_vectors", vectors)
    source = open_source(str(tmp_path))
    assert isinstance(source, csd.CsdFolder)
    read = everything(source)
    assert source.report.found == {"train": 1284, "valid": 229, "test": 686}
    assert {split: len(us) for split, us in read.items()} == source.report.found
    assert source.report.dropped == []
    assert not any("clipped" in note for note in source.report.notes)
    for utterances in read.values():
        for utterance in utterances:
            scores, intervals = given[utterance.video_id]
            order = sorted(range(len(intervals)), key=lambda row: tuple(intervals[row]))
            row = order[utterance.segment - 1]
            assert utterance.score == pytest.approx(float(scores[row, 0]))
            first = float(utterance.frames["text"][0, 0])
            assert utterance.start - 0.2 < first < utterance.end


def test_videos_of_no_fold_and_too_many_segments_are_refused(tmp_path: Path) -> None:
    folder = write_scene(tmp_path, scene())
    (folder / "folds.json").write_text(json.dumps({"train": ["another"]}))
    with pytest.raises(UserError, match=r"none of its 6 labelled videos, .* 'abe', is in .*folds"):
        csd.CsdFolder(str(folder))
    many = np.zeros((10_001, 1)), np.zeros((10_001, 2))
    write_csd(folder / "labels.csd", "labels", {"abe": many})
    with pytest.raises(UserError, match=r"labels.csd: 'abe' has 10,001 labelled segments"):
        csd.CsdFolder(str(folder))


def test_the_benchmark_reads_all_that_it_wrote(tmp_path: Path) -> None:
    found = benchmark.measure(0.003, directory=str(tmp_path))
    assert found == json.loads(json.dumps(found))
    assert found["videos"] == 10
    assert 30 < found["segments"] < 200
    assert found["words"] > 5 * found["segments"]
    assert 0.02 < found["peak_memory_gb"] < 1
    assert not list(tmp_path.iterdir())
