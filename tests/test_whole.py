import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from msa_jax.data import whole
from msa_jax.errors import UserError


def _numbers(folder: Path) -> Path:
    (folder / "a").write_text("1")
    (folder / "b").write_text("2")
    return folder


def _is_made(folder: Path) -> bool:
    return (folder / "b").exists()


def _make(folder: Path) -> None:
    def write(empty: Path) -> Path:
        with (folder.parent.parent / "calls").open("a") as log:
            log.write(".")
        return _numbers(empty)

    whole.make(folder, write, lambda: _is_made(folder))


def _die(folder: Path) -> None:
    def write(empty: Path) -> Path:
        (empty / "a").write_text("1")
        os.kill(os.getpid(), signal.SIGKILL)
        return empty

    whole.make(folder, write, lambda: False)


def test_it_is_made_once_by_one_of_many(tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "folder"
    start = multiprocessing.get_context("spawn")
    processes = [start.Process(target=_make, args=(folder,)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "calls").read_text() == "."
    assert sorted(item.name for item in folder.iterdir()) == ["a", "b"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_killed_process_leaves_nothing_that_counts(tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "folder"
    process = multiprocessing.get_context("spawn").Process(target=_die, args=(folder,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not folder.exists()
    whole.make(folder, _numbers, lambda: _is_made(folder))
    assert list(folder.parent.iterdir()) == [folder]


def test_what_a_killed_process_took_away_is_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "folder"
    away = folder.parent / ".unfinished" / "replaced"
    _numbers_in(away / "folder")
    _numbers_in(away / "other")
    whole.make(folder, _numbers, lambda: _is_made(folder))
    assert sorted(item.name for item in folder.parent.iterdir()) == ["folder", "other"]


def _numbers_in(folder: Path) -> None:
    folder.mkdir(parents=True)
    _numbers(folder)


def test_a_refusal_leaves_nothing_or_what_was_there(tmp_path: Path) -> None:
    def refuse(empty: Path) -> Path:
        (empty / "a").write_text("3")
        raise ValueError("no")

    folder = tmp_path / "parent" / "folder"
    with pytest.raises(ValueError, match="no"):
        whole.make(folder, refuse, lambda: False)
    assert not folder.parent.exists()
    whole.make(folder, _numbers, lambda: False)
    with pytest.raises(ValueError, match="no"):
        whole.make(folder, refuse, lambda: False)
    assert (folder / "a").read_text() == "1"


def test_what_is_there_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "folder"
    folder.mkdir(parents=True)
    (folder / "old").write_text("")
    whole.make(folder, _numbers, lambda: False)
    assert sorted(item.name for item in folder.iterdir()) == ["a", "b"]
    assert list(folder.parent.iterdir()) == [folder]


def test_leftovers_that_cannot_be_removed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "parent" / ".unfinished").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr("os.rmdir", refuse)
        with pytest.raises(PermissionError):
            whole.make(tmp_path / "parent" / "folder", _numbers, lambda: False)


def test_without_locks_it_is_still_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    folder = tmp_path / "parent" / "folder"
    whole.make(folder, _numbers, lambda: False)
    assert list(folder.parent.iterdir()) == [folder]


def test_the_temporary_home_is_this_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole.tempfile, "gettempdir", lambda: str(tmp_path))
    home = whole.temporary_home()
    assert home.parent == tmp_path
    assert home.stat().st_mode & 0o777 == 0o700
    assert whole.temporary_home() == home
    monkeypatch.setattr(whole.os, "getuid", lambda: home.stat().st_uid + 1)
    foreign = whole.tempfile.gettempdir() + f"/msa_jax-{home.stat().st_uid + 1}"
    Path(foreign).mkdir()
    with pytest.raises(UserError, match="a link or another user's, so"):
        whole.temporary_home()


def test_a_temporary_home_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    whole.temporary_home().rmdir()
    (tmp_path / f"msa_jax-{whole.os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link or another user's, so"):
        whole.temporary_home()
