"""Sources in a bucket: here a folder stands for one."""

import os
import shutil
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_record.python import array_record_module
from etils import epath
from etils.epath import backend

from msa_jax import config
from msa_jax.data import builders, dataset, prepare, remote
from msa_jax.errors import UserError


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `gs://bucket` stands for; copies go to a temporary directory of their own."""
    folder = tmp_path / "bucket"
    folder.mkdir()

    def path(name: str) -> epath.Path:
        return epath.Path(name.replace("gs://bucket", str(folder)))

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(remote, "epath", types.SimpleNamespace(Path=path))
    return folder


def test_a_path_of_this_machine_stays() -> None:
    assert remote.local("mine.npz") == "mine.npz"


def test_a_file_is_copied_once_and_again_when_it_has_changed(bucket: Path) -> None:
    (bucket / "a.npz").write_bytes(b"one")
    first = Path(remote.local("gs://bucket/a.npz"))
    assert first.name == "a.npz"
    assert first.read_bytes() == b"one"
    first.write_bytes(b"kept")
    assert remote.local("gs://bucket/a.npz") == str(first)
    assert first.read_bytes() == b"kept"
    (bucket / "a.npz").write_bytes(b"three")
    assert Path(remote.local("gs://bucket/a.npz")).read_bytes() == b"three"


def test_of_a_folder_the_files_are_copied(bucket: Path) -> None:
    (bucket / "tables" / "inner").mkdir(parents=True)
    for name in ("train.csv", "test.csv"):
        (bucket / "tables" / name).write_text(name)
    copy = Path(remote.local("gs://bucket/tables"))
    assert copy.name == "tables"
    assert {item.name: item.read_text() for item in copy.iterdir()} == {
        "train.csv": "train.csv",
        "test.csv": "test.csv",
    }


def test_what_is_not_there_is_refused_and_leaves_nothing(bucket: Path) -> None:
    with pytest.raises(UserError, match=r"cannot copy gs://bucket/none\.npz to this machine: File"):
        remote.local("gs://bucket/none.npz")
    assert not list(Path(tempfile.gettempdir()).glob("*/fetched*"))


def test_an_interrupted_copy_leaves_nothing_half_made(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bucket / "a.npz").write_bytes(b"one")

    def interrupted(*_: object) -> None:
        raise OSError("the connection is lost")

    with monkeypatch.context() as broken:
        broken.setattr("shutil.copyfileobj", interrupted)
        with pytest.raises(UserError, match="the connection is lost"):
            remote.local("gs://bucket/a.npz")
    assert Path(remote.local("gs://bucket/a.npz")).read_bytes() == b"one"


def test_training_data_may_lie_in_a_bucket(
    bucket: Path, write_features: Callable[..., str]
) -> None:
    path = write_features()
    os.link(path, bucket / Path(path).name)
    there = dataset.load(config.Data(path=f"gs://bucket/{Path(path).name}"))
    here = dataset.load(config.Data(path=path))
    assert there.schema.fingerprint == here.schema.fingerprint
    np.testing.assert_array_equal(there.splits["test"].scores, here.splits["test"].scores)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where all that is read and written as `gs://bucket` is."""
    folder, temporary = tmp_path / "written", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    class Cloud:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def method(*given: Any, **how: Any) -> Any:
                places = (str(each).replace("gs://bucket", str(folder)) for each in given)
                return getattr(backend.os_backend, name)(*places, **how)

            return method

    def chosen(path: epath.Path) -> Any:
        return Cloud() if str(path).startswith("gs://") else backend.os_backend

    def reader(path: str, *given: Any, **how: Any) -> Any:
        return read(path.replace("gs://bucket", str(folder)), *given, **how)

    # Records are read by a client of their own.
    read = array_record_module.ArrayRecordReader
    monkeypatch.setattr(array_record_module, "ArrayRecordReader", reader)
    monkeypatch.setattr(type(epath.Path("gs://bucket")), "_backend", property(chosen))
    return folder


def test_a_dataset_is_prepared_into_a_bucket(
    written: Path, write_features: Callable[..., str]
) -> None:
    path, folder = write_features(), written / "data/utterances/mine/1.0.0"
    assert not prepare.prepare(path, "mine", "gs://bucket/data").was_there
    assert (folder / "card.md").exists()
    assert prepare.prepare(path, "mine", "gs://bucket/data").was_there
    there = dataset.load(config.Data(name="mine", dir="gs://bucket/data"))
    here = dataset.load(config.Data(path=path))
    np.testing.assert_array_equal(there.splits["test"].scores, here.splits["test"].scores)
    other = write_features("other.npz", count=90)
    with pytest.raises(UserError, match=r"prepared from other data .* --overwrite"):
        prepare.prepare(other, "mine", "gs://bucket/data")
    (folder / "stale").touch()
    assert not prepare.prepare(other, "mine", "gs://bucket/data", overwrite=True).was_there
    assert not (folder / "stale").exists()
    assert [item.name for item in folder.parent.iterdir()] == ["1.0.0"]
    assert not list(Path(tempfile.gettempdir()).glob("msa_jax-*/prepared-*"))


def test_what_is_interrupted_on_the_way_to_a_bucket_is_repeated(
    written: Path, write_features: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise OSError("the connection is lost")

    def known(name: str = "mine") -> Any:
        builder = builders.open_named(name, "gs://bucket/data")
        return builder and builders.metadata(builder)["file"]

    def interrupted(path: str, target: Any, name: str) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(target, name, lost)
            with pytest.raises(UserError, match=r"cannot write gs://bucket/.*connection is lost"):
                prepare.prepare(path, "mine", "gs://bucket/data", overwrite=True)

    one, two = write_features("one.npz"), write_features("two.npz", count=90)
    interrupted(one, shutil, "copyfileobj")
    assert known() is None
    with monkeypatch.context() as prepared:  # is not prepared again, only copied
        prepared.setattr(builders.Utterances, "download_and_prepare", lost)
        prepare.prepare(one, "mine", "gs://bucket/data")
    assert known() == "one.npz"
    interrupted(two, shutil, "copyfileobj")
    assert known() == "one.npz"
    interrupted(two, type(epath.Path("gs://bucket")), "replace")
    assert known() is None
    prepare.prepare(two, "mine", "gs://bucket/data")
    assert known() == "two.npz"


def test_what_is_refused_leaves_a_bucket_as_it_was(
    written: Path, write_features: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="score"):
        prepare.prepare(write_features(score=None), "mine", "gs://bucket/data")
    assert not list(written.iterdir())

    def denied(*_: Any) -> bool:
        raise PermissionError("no credentials")

    monkeypatch.setattr(type(epath.Path("gs://bucket")), "exists", denied)
    with pytest.raises(UserError, match=r"cannot read gs://bucket/.*no credentials.*Check"):
        builders.open_named("mine", "gs://bucket/data")


def test_a_temporary_directory_that_cannot_be_written_is_named(
    written: Path, write_features: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(builders.Utterances, "download_and_prepare", full)
    with pytest.raises(UserError, match=r"temporary.*No space left on device. Set TMPDIR"):
        prepare.prepare(write_features(), "mine", "gs://bucket/data")
