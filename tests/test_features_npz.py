import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax.config import Data
from msa_jax.data import builders, store
from msa_jax.data.sources.features_npz import FeaturesFile
from msa_jax.errors import UserError
from tests.conftest import CHANNELS, features

Write = Callable[..., str]


def test_reads_vectors_sequences_and_tables(write_features: Write) -> None:
    arrays = features()
    file = FeaturesFile(write_features())
    assert dict(sorted(file.channels.items())) == dict(sorted(CHANNELS.items()))
    assert file.report.found == {"train": 60, "valid": 20, "test": 20}
    for row, utterance in enumerate(file.utterances("train")):
        text = arrays["text"][row, : arrays["text_length"][row]]
        ids = arrays["vision_ids"][row, : arrays["vision_length"][row]]
        np.testing.assert_array_equal(utterance.frames["text"], text)
        np.testing.assert_array_equal(utterance.frames["audio"], arrays["audio"][row : row + 1])
        np.testing.assert_array_equal(utterance.frames["vision"], arrays["vision_table"][ids])
        assert utterance.score == arrays["score"][row]
        assert utterance.video_id == arrays["video_id"][row]


def _replaced(array: np.ndarray, row: int, value: Any) -> np.ndarray:
    array = array.copy()
    array[row] = value
    return array


BAD = {
    "missing score": ({"score": None}, ["'score'"]),
    "missing split": ({"split": None}, ["'split'"]),
    "missing table": ({"vision_table": None}, ["vision_table"]),
    "no modality": (
        {"text": None, "audio": None, "vision_ids": None, "vision_table": None},
        ["no modality"],
    ),
    "score out of range": (
        {"score": _replaced(features()["score"], 3, 3.5)},
        ["3.5", "video0[3]", "[-3, 3]"],
    ),
    "score NaN": ({"score": _replaced(features()["score"], 3, np.nan)}, ["video0[3]"]),
    "split name": (
        {"split": _replaced(features()["split"].astype("U9"), 0, "training")},
        ["'training'", "'train'"],
    ),
    "duplicate id": ({"id": _replaced(features()["id"], 1, "video0[0]")}, ["'video0[0]'", "once"]),
    "rows differ": ({"score": features()["score"][:-1]}, ["score", "(99,)", "100"]),
    "length too long": (
        {"text_length": _replaced(features()["text_length"], 2, 7)},
        ["text_length", "[0, 6]", "video0[2]"],
    ),
    "id outside the table": (
        {"vision_ids": _replaced(features()["vision_ids"], 0, 9)},
        ["vision_ids", "[0, 9)"],
    ),
    "integers as features": (
        {"audio": np.zeros((100, 3), np.int32)},
        ["audio is int32", "floats"],
    ),
    "rows of a modality differ": (
        {"audio": np.zeros((99, 3), np.float32)},
        ["audio", "(99, 3)", "N = 100"],
    ),
    "a modality of one dimension": ({"audio": np.zeros(100, np.float32)}, ["audio", "(100,)"]),
    "strings as a table": ({"vision_table": np.full((9, 4), "x")}, ["vision_table is <U1"]),
    "ids without a step": (
        {"vision_ids": np.zeros((100, 0)), "vision_length": None},
        ["vision_ids", "float64"],
    ),
    "name of a mask": (
        {"text_mask": np.zeros((100, 6), np.float32)},
        ["'text_mask' cannot name a modality"],
    ),
    "table of no modality": (
        {"smell_table": np.zeros((3, 2), np.float32)},
        ["smell_table belongs to no modality"],
    ),
    "length as floats": (
        {"text_length": np.ones(100)},
        ["text_length must be integers in [0, 6]", "float64"],
    ),
    "segment with NaN": ({"segment": np.full(100, np.nan)}, ["segment is float64", "integers"]),
    "one id": ({"id": np.array("x")}, ["id has shape ()"]),
    "start as strings": ({"start": np.full(100, "0:30")}, ["start is <U4", "seconds"]),
    "an array and ids": (
        {"vision": np.zeros((100, 4), np.float32)},
        ["both vision and vision_ids"],
    ),
    "ids of one dimension": (
        {"vision_ids": np.zeros(100, np.int64)},
        ["vision_ids has shape (100,)", "2 dimension"],
    ),
    "four dimensions": (
        {"audio": np.zeros((100, 1, 2, 3), np.float32)},
        ["audio", "(100, 1, 2, 3)"],
    ),
}


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_refusals_name_array_and_rows(
    write_features: Write, tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    path = write_features(**changes)
    with pytest.raises(UserError) as error:
        builders.prepare(Data(path=path, dir=str(tmp_path / "prepared")))
    for word in [path, *words]:
        assert word in str(error.value)
    left = [item for item in (tmp_path / "prepared").rglob("*") if item.is_file()]
    assert not left, "a refused file leaves nothing behind"


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04broken"])
def test_wrong_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrong.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"wrong.npz"):
        FeaturesFile(str(path))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.npz.*No such file"):
        builders.prepare(Data(path=str(tmp_path / "absent.npz")))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "pickled.npz"
    np.savez(path, id=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="pickled objects"):
        FeaturesFile(str(path))


def test_prepared_data_equal_the_file_and_follow_its_content(write_features: Write) -> None:
    path = write_features()
    first = builders.prepare(Data(path=path))
    split = store.load(first, "valid", ("text", "vision"), 100)
    for row, utterance in enumerate(FeaturesFile(path).utterances("valid")):
        for modality, frames in utterance.frames.items():
            if modality in split.sequences:
                sequences = split.sequences[modality]
                one = slice(row, row + 1)
                kept = sequences.frames.read(sequences.starts[one], sequences.lengths[one])
                np.testing.assert_array_equal(kept, frames)
    again = builders.prepare(Data(path=path))
    assert builders.fingerprint(again) == builders.fingerprint(first)
    write_features(audio=np.zeros((100, 3), np.float32))
    changed = builders.prepare(Data(path=path))
    assert builders.fingerprint(changed) != builders.fingerprint(first)


def test_interrupted_preparation_can_be_repeated(
    write_features: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = Data(path=write_features(), dir=str(tmp_path / "prepared"))

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patched:
        patched.setattr(builders.Utterances, "_generate_examples", stop)
        with pytest.raises(KeyboardInterrupt):
            builders.prepare(data)
    assert not list((tmp_path / "prepared").rglob("dataset_info.json"))
    assert len(store.load(builders.prepare(data), "train", ("text",), 10)) == 60


def test_other_split_columns(write_features: Write) -> None:
    path = write_features(split_swapped=features()["split"][::-1])
    builder = builders.prepare(Data(path=path, split_column="split_swapped"))
    assert store.load(builder, "test", ("audio",), 1).ids[0] == "video0[0]"
    with pytest.raises(UserError, match=r"'split_swappd'.*Did you mean 'split_swapped'"):
        builders.prepare(Data(path=path, split_column="split_swappd"))


PREPARE = """
import sys
from msa_jax.config import Data
from msa_jax.data import builders
print(builders.fingerprint(builders.prepare(Data(path=sys.argv[1], dir=sys.argv[2]))))
"""


@pytest.mark.slow
def test_two_processes_may_prepare_the_same_data(write_features: Write, tmp_path: Path) -> None:
    data = Data(path=write_features(), dir=str(tmp_path / "prepared"))
    command = [sys.executable, "-c", PREPARE, data.path, data.dir]
    root = Path(__file__).parents[1]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) for _ in range(2)]
    names = {child.communicate(timeout=300)[0].decode().strip() for child in both}
    assert [child.returncode for child in both] == [0, 0]
    assert names == {builders.identify(data)}
    assert len(list((tmp_path / "prepared").rglob("dataset_info.json"))) == 1
    assert len(store.load(builders.prepare(data), "train", ("text",), 10)) == 60


def test_what_is_not_read_is_noted(write_features: Write) -> None:
    file = FeaturesFile(
        write_features(split_other=features()["split"], text_lengths=np.ones(100), made=np.array(3))
    )
    assert file.report.notes == ["Columns that are not read: made, text_lengths."]
    assert FeaturesFile(write_features()).report.notes == []


def test_prepared_data_need_no_source(write_features: Write) -> None:
    path = write_features()
    name = builders.fingerprint(builders.prepare(Data(path=path)))
    assert name == builders.identify(Data(path=path))
    Path(path).unlink()
    found = builders.open_prepared(name, "")
    assert found is not None
    assert len(store.load(found, "test", ("audio",), 1)) == 20
    assert builders.open_prepared("utterances/other/1.0.0", "") is None
