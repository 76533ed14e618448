"""Every format: recognised by looking, read to the same batches, trained on and evaluated."""

import csv
import dataclasses
import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from msa_jax import train
from msa_jax.config import Data
from msa_jax.data import builders, dataset, order, pipeline, prepare
from msa_jax.data.sources import checksum, open_source, pickles
from msa_jax.errors import UserError
from msa_jax.evaluate import restore
from msa_jax.tasks import Task
from tests.conftest import tiny_config
from tests.csd_files import write_csd

CHANNELS = {"audio": 4, "text": 6, "vision": 3}
SIZES = {"train": 20, "valid": 8, "test": 12}
SEGMENTS = 4  # of a video


@dataclasses.dataclass(frozen=True)
class Clip:
    """An utterance to write, whose modalities are aligned: frames [T, C], or [0, C] if absent."""

    split: str
    video: str
    segment: int
    score: np.float32
    frames: dict[str, np.ndarray]

    @property
    def id(self) -> str:
        return f"{self.video}[{self.segment - 1}]"

    @property
    def start(self) -> float:
        return 10.0 * self.segment

    @property
    def words(self) -> list[str]:
        return [f"w{self.segment}x{step}" for step in range(len(self.frames["text"]))]


def clips(longest: int) -> list[Clip]:
    """Utterances of 1 to `longest` frames, some not finite, and a video without vision."""
    rng = np.random.default_rng(0)
    made = []
    for split, count in SIZES.items():
        for row in range(count):
            steps = 1 + row % longest
            frames = {
                modality: rng.uniform(0.5, 1.5, (steps, channels)).astype(np.float32)
                for modality, channels in CHANNELS.items()
            }
            if row == 2:
                frames["audio"][0, 1] = -np.inf
            if row == 3 and steps > 2:
                frames["audio"][:2] = 0  # a silent start is no padding where the text has begun
            if row // SEGMENTS == 1:
                frames["vision"] = frames["vision"][:0]
            score = np.float32(rng.integers(-9, 10) / 3)
            made.append(Clip(split, f"{split}{row // SEGMENTS}", row % SEGMENTS + 1, score, frames))
    return made


def padded(rows: Sequence[Clip], modality: str, steps: int, side: str) -> np.ndarray:
    """Frames [N, T, C] with zeros on the left or right; all zeros where absent."""
    whole = np.zeros((len(rows), steps, CHANNELS[modality]), np.float32)
    for place, clip in zip(whole, rows, strict=True):
        frames = clip.frames[modality]
        if len(frames):
            place[slice(steps - len(frames), None) if side == "left" else slice(len(frames))] = (
                frames
            )
    return whole


def by_split(rows: Sequence[Clip]) -> dict[str, list[Clip]]:
    return {split: [clip for clip in rows if clip.split == split] for split in SIZES}


def write_multibench(folder: Path, rows: Sequence[Clip]) -> str:
    steps = max(len(clip.frames["text"]) for clip in rows)
    content = {
        split: {
            **{modality: padded(own, modality, steps, "left") for modality in CHANNELS},
            "labels": np.array([clip.score for clip in own]).reshape(-1, 1, 1),
            "id": np.array([clip.id for clip in own]),
        }
        for split, own in by_split(rows).items()
    }
    (folder / "data.pkl").write_bytes(pickle.dumps(content, 4))
    return str(folder / "data.pkl")


def write_mmsa(folder: Path, rows: Sequence[Clip]) -> str:
    steps = max(len(clip.frames["text"]) for clip in rows)
    content = {}
    for split, own in by_split(rows).items():
        mask = np.array([np.arange(steps) < len(clip.frames["text"]) for clip in own], np.int64)
        content[split] = {
            **{modality: padded(own, modality, steps, "right") for modality in CHANNELS},
            "text_bert": np.stack([101 * mask, mask, 0 * mask], axis=1),
            "raw_text": np.array([" ".join(clip.words) for clip in own]),
            "regression_labels": np.array([clip.score for clip in own]),
            "id": [clip.id for clip in own],
        }
    (folder / "aligned_50").write_bytes(pickle.dumps(content, 4))
    return str(folder / "aligned_50")


def write_csds(folder: Path, rows: Sequence[Clip]) -> str:
    """One frame a word in each modality, with the words' own intervals."""
    roots = {"text": "glove_vectors", "audio": "COVAREP", "vision": "FACET 4.2"}
    videos: dict[str, list[Clip]] = {}
    for clip in rows:
        videos.setdefault(clip.video, []).append(clip)

    def times(own: Sequence[Clip]) -> np.ndarray:
        starts = [clip.start + step for clip in own for step in range(len(clip.words))]
        return np.array([(start, start + 1) for start in starts], np.float32)

    for modality, root in roots.items():
        entries = {
            video: (np.concatenate([clip.frames[modality] for clip in own]), times(own))
            for video, own in videos.items()
            if len(own[0].frames[modality])
        }
        write_csd(folder / f"{modality}.csd", root, entries)
    words = {
        video: (np.array([[word] for clip in own for word in clip.words], "S32"), times(own))
        for video, own in videos.items()
    }
    write_csd(folder / "words.csd", "words", words)
    labels = {
        video: (
            np.array([[clip.score] for clip in own]),
            np.array([(clip.start, clip.start + 10) for clip in own], np.float32),
        )
        for video, own in videos.items()
    }
    write_csd(folder / "labels.csd", "Opinion Segment Labels", labels)
    folds = {split: sorted({c.video for c in own}) for split, own in by_split(rows).items()}
    (folder / "folds.json").write_text(json.dumps(folds))
    return str(folder)


def columns(rows: Sequence[Clip]) -> dict[str, list[Any]]:
    return {
        "id": [clip.id for clip in rows],
        "video_id": [clip.video for clip in rows],
        "segment": [clip.segment for clip in rows],
        "start": [clip.start for clip in rows],
        "end": [clip.start + 10 for clip in rows],
        "transcript": [" ".join(clip.words) for clip in rows],
        "score": [float(clip.score) for clip in rows],
    }


def write_npz(folder: Path, rows: Sequence[Clip]) -> str:
    steps = max(len(clip.frames["text"]) for clip in rows)
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns(rows).items()}
    arrays["split"] = np.array([clip.split for clip in rows])
    for modality in CHANNELS:
        arrays[modality] = padded(rows, modality, steps, "right")
        arrays[f"{modality}_length"] = np.array([len(clip.frames[modality]) for clip in rows])
    np.savez(folder / "data.npz", **arrays)
    return str(folder / "data.npz")


def write_parquet(folder: Path, rows: Sequence[Clip]) -> str:
    for split, own in by_split(rows).items():
        frames = {m: [clip.frames[m].tolist() for clip in own] for m in CHANNELS}
        table = pyarrow.table(
            columns(own)
            | {
                modality: pyarrow.array(values, pyarrow.list_(pyarrow.list_(pyarrow.float32())))
                for modality, values in frames.items()
            }
        )
        pyarrow.parquet.write_table(table, folder / f"{split}.parquet")
    return str(folder)


def write_table(folder: Path, rows: Sequence[Clip]) -> str:
    """A folder of .csv files, which hold a single vector an utterance."""
    for split, own in by_split(rows).items():
        fields = columns(own)
        for modality, channels in CHANNELS.items():
            for channel in range(channels):
                fields[f"{modality}_{channel}"] = [
                    "" if not len(frames) else repr(float(frames[0, channel]))
                    for frames in (clip.frames[modality] for clip in own)
                ]
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(fields)
            writer.writerows(zip(*fields.values(), strict=True))
    return str(folder)


Write = Callable[[Path, Sequence[Clip]], str]
WRITERS: dict[str, Write] = {
    "features_npz": write_npz,
    "multibench": write_multibench,
    "mmsa": write_mmsa,
    "csd": write_csds,
    "parquet": write_parquet,
    "csv": write_table,
}
READERS = {name: name for name in WRITERS} | {"parquet": "tables", "csv": "tables"}
# What no format but these carries.
CARRY_WORDS = {"features_npz", "mmsa", "csd", "parquet", "csv"}
CARRY_TIMES = {"features_npz", "csd", "parquet", "csv"}


def written(folder: Path, name: str, longest: int) -> str:
    (folder / name).mkdir()
    return WRITERS[name](folder / name, clips(1 if name == "csv" else longest))


def all_batches(name: str, folder: Path) -> list[dict[str, np.ndarray]]:
    """Two epochs of training batches and all batches of the other splits."""
    loaded = dataset.load(Data(name=name, dir=str(folder), buckets=2))
    plans: dict[str, tuple[order.Order, int]] = {}
    for split in loaded.splits:
        drawn = (loaded.units[split], loaded.buckets[split], 8)
        if split == "train":
            training = order.TrainOrder(*drawn, seed=1)
            plans[split] = training, 2 * training.steps_per_epoch
        else:
            evaluation = order.EvalOrder(*drawn)
            plans[split] = evaluation, len(evaluation)
    return [
        batch
        for split, (plan, count) in plans.items()
        for batch in pipeline.batches(
            loaded.splits[split],
            Task(kind="three_class"),
            plan,
            loaded.buckets[split],
            first=0,
            last=count,
        )
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_formats_are_recognised_by_looking(tmp_path: Path, name: str) -> None:
    source = open_source(written(tmp_path, name, longest=3))
    assert source.format == READERS[name]
    assert dict(source.channels) == CHANNELS
    assert tuple(source.splits) == tuple(SIZES)
    for split, count in SIZES.items():
        assert len(list(source.utterances(split))) == count
    assert source.report.found == SIZES


@pytest.mark.parametrize("name", ["multibench", "mmsa", "features_npz"])
@pytest.mark.parametrize("suffix", ["", ".data"])
def test_names_of_files_do_not_matter(tmp_path: Path, name: str, suffix: str) -> None:
    path = Path(written(tmp_path, name, longest=3))
    assert open_source(str(path.rename(tmp_path / f"data{suffix}"))).format == READERS[name]


def test_a_pickle_with_both_tools_keys_goes_by_its_labels(tmp_path: Path) -> None:
    content = pickles.load(written(tmp_path, "multibench", longest=3))
    for arrays in content.values():
        arrays["raw_text"] = ["words"] * len(arrays["id"])
    (tmp_path / "both.pkl").write_bytes(pickle.dumps(content))
    assert open_source(str(tmp_path / "both.pkl")).format == "multibench"


UNKNOWN: dict[str, tuple[str, bytes, str]] = {
    "nothing": ("a.npz", b"", "a.npz"),
    "text": ("notes.txt", b"hello, world\n", "notes.txt"),
    "an archive": ("a.zip", b"PK\x05\x06" + bytes(18), "a.zip"),
    "one .csd file": ("a.csd", b"\x89HDF\r\n\x1a\n" + bytes(99), "name the folder that holds all"),
    "a pickle of a list": ("a.pkl", pickle.dumps([1, 2]), "neither MultiBench's nor.*found list"),
    "a pickle of videos": (
        "a.pkl",
        pickle.dumps({"video1": {"text": 1}, "video2": {}}),
        r"neither MultiBench's nor MMSA's layout \(found video1, video2\).*features file \(.npz\)",
    ),
    "a program": ("a.pkl", b"cos\nsystem\n(S'true'\ntR.", "asks to run 'os.system'"),
    "a page": ("mosei.pkl", b"<!DOCTYPE html>", "it is a web page"),
    "a checkpoint": ("model.pkl", b"PK\x03\x04" + bytes(30), "not a pickle: it is a zip archive"),
    "a pointer": ("m.pkl", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "a folder of others": ("folder/a.wav", b"RIFF", r"folder holds \.wav: expected \.csd files"),
    "an empty folder": ("folder/", b"", "folder holds no file: expected"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_none_of_them_is_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    relative, content, words = UNKNOWN[name]
    path = tmp_path / relative
    path.parent.mkdir(exist_ok=True)
    if relative.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(content)
    given = path if path.parent == tmp_path else path.parent
    with pytest.raises(UserError, match=words) as error:
        open_source(str(given))
    assert str(given) in str(error.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.pkl")
    for look in (open_source, checksum):
        with pytest.raises(UserError, match="neither a file nor a folder"):
            look(str(tmp_path / "data.pkl"))


def test_a_path_to_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*missing\.pkl.*Check the path"):
        open_source(str(tmp_path / "missing.pkl"))


@pytest.mark.parametrize(
    ("longest", "names"),
    [
        (5, ["features_npz", "multibench", "mmsa", "csd", "parquet"]),
        (1, ["features_npz", "multibench", "mmsa", "csd", "parquet", "csv"]),
    ],
)
def test_the_same_utterances_give_the_same_batches(
    tmp_path: Path, longest: int, names: list[str]
) -> None:
    expected = clips(longest)
    batches = {}
    for name in names:
        path = written(tmp_path, name, longest)
        made = prepare.prepare(path, name, str(tmp_path / "data"))
        for split, own in by_split(expected).items():
            rows = list(made.builder.as_data_source(split))
            assert [row["id"].decode() for row in rows] == [clip.id for clip in own]
            assert [row["video_id"].decode() for row in rows] == [clip.video for clip in own]
            assert [row["segment"] for row in rows] == [clip.segment for clip in own]
            if name in CARRY_WORDS:
                told = [row["transcript"].decode() for row in rows]
                assert told == [" ".join(clip.words) for clip in own]
            if name in CARRY_TIMES:
                assert [row["start"] for row in rows] == [clip.start for clip in own]
        assert builders.metadata(made.builder)["report"]["dropped"] == []
        batches[name] = all_batches(name, tmp_path / "data")
    first, *others = batches
    assert sum(batch["example_mask"].sum() for batch in batches[first]) == 2 * 20 + 8 + 12
    for other in others:
        for left, right in zip(batches[first], batches[other], strict=True):
            assert left.keys() == right.keys()
            for key in left:
                assert left[key].dtype == right[key].dtype
                # Bits, so that 0 and -0 differ.
                assert left[key].tobytes() == right[key].tobytes(), (other, key)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_trained_on_and_evaluated(tmp_path: Path, name: str) -> None:
    overrides = {"training.epochs": 1, "data.dir": str(tmp_path / "data")}
    config = tiny_config("early", written(tmp_path, name, longest=3), **overrides)
    results = train.train_and_evaluate(config, str(tmp_path / "run"))
    assert results["splits"]["test"]["n"] == SIZES["test"]
    again = restore(str(tmp_path / "run"), "test").evaluate()
    assert again.report()["metrics"] == results["splits"]["test"]["metrics"]
