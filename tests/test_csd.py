"""Folders of `.csd` files: what is read from them, against plain loops, and what is refused."""

import functools
import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from msa_jax.benchmarks import alignment as benchmark
from msa_jax.data.schema import Utterance
from msa_jax.data.sources import computational_sequence, csd, open_source
from msa_jax.errors import UserError
from tests.conftest import SHARED
from tests.csd_files import write_csd

FOLDS = {"train": ["zoe", "abe"], "valid": ["bea"], "test": ["cal"]}
# dan is in no fold, eve has no words, fay no labels; cal has no audio.
VIDEOS = ("zoe", "fay", "abe", "dan", "eve", "cal", "bea")
Scene = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


def scene(seed: int = 0) -> Scene:
    """`{role: {video: (features, intervals)}}`, float32 intervals, rows in any order."""
    rng = np.random.default_rng(seed)
    made: Scene = {role: {} for role in ("words", "text", "audio", "vision", "labels")}
    for video in VIDEOS:
        edges = np.cumsum(rng.uniform(0.1, 0.7, 41))
        spans = np.stack([edges[:-1], edges[1:] - rng.choice([0, 0.05], 40)], axis=1)
        spans[7, 1] = spans[7, 0]  # an instant
        said = np.array([f"word{i}é" for i in range(40)])
        said[rng.random(40) < 0.2] = "sp"
        order = rng.permutation(40)
        words = np.char.encode(said, "utf-8")[order, None]
        made["words"][video] = words, np.float32(spans[order])
        order = rng.permutation(40)[5:]
        made["text"][video] = rng.standard_normal((35, 6)), np.float32(spans[order])
        times = np.arange(200) / 10
        audio = rng.standard_normal((200, 74)).astype(np.float32)
        audio[rng.random(200) < 0.2, 7] = -np.inf
        audio[30:60, 3] = np.nan
        made["audio"][video] = audio, np.float32(np.stack([times, times + 0.1], axis=1))
        times = 2 + np.arange(30) / 3
        made["vision"][video] = (
            rng.standard_normal((30, 35)),
            np.float32(np.stack([times, times + 0.5], axis=1)),
        )
        ends = edges[[10, 11, 18, 40]]
        starts = np.concatenate([[0], ends[:-1]])
        segments = np.stack([starts - 0.5, ends + 0.5], axis=1)
        instant = [edges[25] + 0.04] * 2
        added = [[edges[2], edges[5]], [90, 91], edges[20:22], instant]
        segments = np.concatenate([segments, added])
        scores = np.array([10 / 3, -1, 2 / 3, -3, 0, 1, np.nan, 5 / 3])
        order = rng.permutation(8)
        made["labels"][video] = scores[order, None], np.float32(segments[order])
    for role, video in (("words", "eve"), ("labels", "fay"), ("audio", "cal")):
        del made[role][video]
    return made


ROOTS = {
    "words": "words",
    "text": "glove_vectors",
    "audio": "COVAREP",
    "vision": "FACET 4.2",
    "labels": "Opinion Segment Labels",
}


def write(folder: Path, made: Mapping[str, Any], **options: Any) -> Path:
    """Writes a scene, a file a role, and its folds."""
    folder.mkdir(exist_ok=True)
    for role, entries in made.items():
        write_csd(folder / f"{role}.csd", ROOTS[role], entries, **options)
    (folder / "folds.json").write_text(json.dumps(FOLDS))
    return folder


def everything(source: csd.CsdFolder) -> dict[str, list[Utterance]]:
    return {split: list(source.utterances(split)) for split in source.splits}


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
    source = csd.CsdFolder(str(write(tmp_path, {**made, **numbers}, **options)))
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
    source = csd.CsdFolder(str(write(tmp_path, scene())))
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
        "1 videos have no labels: fay.",
        "audio is absent in 1 videos: cal.",
        "4 scores were clipped to [-3, 3]: 3.333 of abe[0], 3.333 of zoe[0], 3.333 of bea[0], ...",
        "pauses ('sp') between words were left out.",
        "non-finite values were left out of the means.",
        "words overlap no frame and are zeros.",
    ):
        assert note in notes
    json.dumps(report.to_json())


def test_a_video_without_words_is_dropped_and_named(tmp_path: Path) -> None:
    folder = write(tmp_path, scene())
    (folder / "folds.json").write_text(json.dumps({"test": ["eve", "cal"]}))
    source = csd.CsdFolder(str(folder))
    assert {u.video_id for u in everything(source)["test"]} == {"cal"}
    dropped = {entry.id for entry in source.report.dropped if entry.reason == csd.NO_WORDS}
    assert dropped == {f"eve[{k}]" for k in range(8)}


def test_without_words_the_word_vectors_own_intervals_are_the_steps(tmp_path: Path) -> None:
    made = scene()
    (vectors, spans), segments = made["text"]["bea"], made["labels"]["bea"][1]
    del made["words"]
    source = csd.CsdFolder(str(write(tmp_path, made)))
    words = sorted((*span(interval), row) for row, interval in enumerate(spans))
    for utterance in source.utterances("valid"):
        segment = np.array([utterance.start, utterance.end], np.float32)
        rows = [row for *_, row in own_words(segment, segments, words)]
        np.testing.assert_array_equal(utterance.frames["text"], vectors[rows].astype(np.float32))
        assert len(utterance.frames["audio"]) == len(rows)
        assert utterance.transcript == ""
    assert "There is no words file" in " ".join(source.report.notes)


@pytest.mark.parametrize("patience", [60.0, -1.0])
def test_words_of_variable_length_are_first_read_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    made = scene()
    folder = write(tmp_path, made)
    expected = everything(csd.CsdFolder(str(folder)))
    entries = {v: (said.astype(object), spans) for v, (said, spans) in made["words"].items()}
    write_csd(folder / "words.csd", "words", entries)
    monkeypatch.setattr(computational_sequence, "PATIENCE", patience)
    if patience > 0:
        read = everything(csd.CsdFolder(str(folder)))
        for split, utterances in read.items():
            assert [u.transcript for u in utterances] == [u.transcript for u in expected[split]]
    else:
        with pytest.raises(UserError, match=r"words\.csd: its words cannot be read \(Timeout"):
            csd.CsdFolder(str(folder))


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


def entry(folder: Path, role: str = "audio") -> tuple[h5py.File, h5py.Group]:
    """The file of a role, open for change, and what it holds of the video abe."""
    file = h5py.File(folder / f"{role}.csd", "r+")
    return file, file[ROOTS[role]]["data/abe"]


def replace(name: str, role: str = "audio", **options: Any) -> Callable[[Path], None]:
    """Writes a dataset of the video abe anew, with `create_dataset`'s options."""

    def change(folder: Path) -> None:
        file, group = entry(folder, role)
        with file:
            del group[name]
            group.create_dataset(name, **options)

    return change


def relink(name: str, link: Any) -> Callable[[Path], None]:
    """Puts a link in the place of a dataset or, with no name, of the whole video."""

    def change(folder: Path) -> None:
        file, group = entry(folder)
        with file:
            group, key = (group, name) if name else (group.parent, "abe")
            del group[key]
            group[key] = link

    return change


def virtual(folder: Path) -> None:
    file, group = entry(folder)
    with file:
        del group["features"]
        layout = h5py.VirtualLayout((200, 74), "f4")
        layout[:] = h5py.VirtualSource("vision.csd", "data", (200, 74))
        group.create_virtual_dataset("features", layout)


def bomb(folder: Path) -> None:
    """A chunk of gzip that unpacks to 2 GiB, in a dataset that claims 59 kB."""
    packer = zlib.compressobj(9)
    first, again = (
        packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    file, group = entry(folder)
    with file:
        del group["features"]
        made = group.create_dataset("features", (200, 74), "f4", chunks=(200, 74), compression=1)
        made.id.write_direct_chunk((0, 0), first + again * 127)


def parts(folder: Path) -> None:
    """Hundreds of parts of a video, none of them stored, each within what is allowed."""
    file, group = entry(folder)
    with file:
        for number in range(40):
            part = group.parent.create_group(f"abe[{number}]")
            part.create_dataset("features", (200_000, 74), "f4")
            part.create_dataset("intervals", (200_000, 2), "f4")


def name_not_in_utf8(folder: Path) -> None:
    file, group = entry(folder)
    with file:
        data = group.parent
        data.id.links.create_soft(b"\xff\xfe", b"abe")


def content(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "audio.csd"
        path.write_bytes(change(path.read_bytes()))

    return changed


def in_place_of_the_file(folder: Path) -> None:
    (folder / "audio.csd").unlink()
    (folder / "audio.csd").mkdir()


def second_root(folder: Path) -> None:
    with h5py.File(folder / "audio.csd", "r+") as file:
        file.create_group("another")


def no_data(folder: Path) -> None:
    with h5py.File(folder / "audio.csd", "r+") as file:
        del file["COVAREP/data"]


def no_rows(folder: Path) -> None:
    empty = np.zeros((0, 74)), np.zeros((0, 2))
    write_csd(folder / "audio.csd", "COVAREP", {"abe": empty})


def rooted(root: str, channels: int = 5) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        made = np.zeros((3, channels)), np.zeros((3, 2))
        write_csd(folder / "audio.csd", root, {"abe": made})

    return add


def without(*roles: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for role in roles:
            (folder / f"{role}.csd").unlink()

    return remove


def times(row: list[float], role: str = "audio") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file, group = entry(folder, role)
        with file:
            group["intervals"][3] = row

    return change


WILD = "in row 3: expected seconds, finite and at most 1,000,000"


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (content(lambda whole: whole[: len(whole) // 2]), "audio.csd", "damaged or incomplete"),
        (content(lambda whole: b""), "audio.csd", "not an HDF5 file"),
        (content(lambda whole: b"<html>not found</html>"), "audio.csd", "not an HDF5 file"),
        (in_place_of_the_file, "audio.csd", "is not a file"),
        (relink("features", h5py.SoftLink("/COVAREP/data/bea/features")), "audio.csd", "links"),
        (relink("features", h5py.ExternalLink("vision.csd", "/")), "audio.csd", "links"),
        (relink("", h5py.ExternalLink("vision.csd", "/")), "audio.csd", "links are never followed"),
        (virtual, "audio.csd", "in other files, which are never opened"),
        (
            replace("features", shape=(200, 74), dtype="f4", external=[("raw", 0, 59200)]),
            "audio.csd",
            "in other files, which are never opened",
        ),
        (second_root, "audio.csd", "has 2 groups at its root"),
        (no_data, "audio.csd", "has no group 'data' in '/COVAREP'; found: 'metadata'"),
        (no_rows, "audio.csd", "has no rows in any video"),
        (without("labels"), "", "has no labels: .* Found: audio.csd .audio., text.csd"),
        (without("words", "text"), "", "neither words nor word vectors"),
        (without("text", "audio", "vision"), "", "has no features"),
        (without("words", "text", "audio", "vision", "labels"), "", "holds no .csd file"),
        (rooted("FACET", 35), "", "both audio.csd .*FACET.* are vision: expected one of them"),
        (rooted("Emotion Labels", 6), "audio.csd", "6 columns: expected 1, the sentiment, or 7"),
        (rooted("example mask"), "audio.csd", "'example mask' cannot name a modality"),
        (rooted("2.1"), "audio.csd", "'2.1' cannot name a modality"),
        (replace("features", data=np.zeros((199, 74))), "audio.csd", "a row each"),
        (replace("features", data=np.zeros(200)), "audio.csd", "a row each"),
        (
            replace("features", data=np.zeros((200, 73))),
            "audio.csd",
            "expected 73 columns, as the entries",
        ),
        (replace("features", data=np.zeros((200, 74), "S4")), "audio.csd", "as words have"),
        (replace("features", shape=(200, 74), dtype=h5py.ref_dtype), "audio.csd", "numbers"),
        (replace("features", data=3.0), "audio.csd", "holds no rows"),
        (
            replace("features", role="words", data=np.zeros((40, 1))),
            "words.csd",
            "expected numbers",
        ),
        (replace("features", "words", data=[[b"\xff"]] * 40), "words.csd", "not UTF-8"),
        (replace("features", "words", data=[[b"a" * 1001]] * 40), "words.csd", "of 1001 bytes"),
        (replace("intervals", data=np.zeros((200, 3))), "audio.csd", "start and end in seconds"),
        (times([np.nan, 1]), "audio.csd", WILD),
        (times([0, 1e30]), "audio.csd", WILD),
        (times([-np.inf, 1], "labels"), "labels.csd", WILD),
        (replace("features", shape=(10**11, 74), dtype="f4"), "audio.csd", "are stored: expected"),
        (
            replace("features", data=np.zeros((300_000, 74), "f4"), compression="gzip"),
            "audio.csd",
            "claims 88,800,000 bytes for '/COVAREP/data/abe/features'",
        ),
        (
            replace("features", shape=(1, 74), maxshape=(None, 74), chunks=(10**7, 74), dtype="f4"),
            "audio.csd",
            "claims 2,960,000,000 bytes",
        ),
        (replace("features", data=np.zeros((200, 74)), compression="lzf"), "audio.csd", "by lzf"),
        (bomb, "audio.csd", "unpacks to more than 1,073,741,824 bytes"),
        (parts, "audio.csd", "'abe' has 3,800,200 rows in 20 parts: expected"),
        (name_not_in_utf8, "audio.csd", "not in UTF-8. Rename it"),
    ],
)
def test_what_is_damaged_or_unsafe_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], file: str, message: str
) -> None:
    folder = write(tmp_path / "data", scene())
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        everything(csd.CsdFolder(str(folder)))
    assert str(folder / file) in str(caught.value)


def test_videos_of_no_fold_and_too_many_segments_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, scene())
    (folder / "folds.json").write_text(json.dumps({"train": ["another"]}))
    with pytest.raises(UserError, match=r"none of its 6 labelled videos, .* 'abe', is in .*folds"):
        csd.CsdFolder(str(folder))
    with pytest.raises(UserError, match=r"unknown fold '5'. Known: standard"):
        csd.CsdFolder(str(folder), fold="5")
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
