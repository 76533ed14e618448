"""Folders that are written at once or not at all, by one process."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from msa_jax.errors import UserError

_REPLACED = "replaced"


def temporary_home() -> Path:
    """This user's own folder in the temporary directory (TMPDIR), made where that can be.

    Raises:
      UserError: if it is a link or another user's: what lies in it cannot be trusted.
    """
    home = Path(tempfile.gettempdir()) / f"msa_jax-{os.getuid()}"
    with contextlib.suppress(OSError):  # a directory that is full or read-only: if it is used, told
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if home.is_symlink() or (home.exists() and home.stat().st_uid != os.getuid()):
        raise UserError(
            f"{home} is a link or another user's, so what lies in it cannot be trusted. Set TMPDIR "
            "to a directory of your own."
        )
    return home


def make(folder: Path, write: Callable[[Path], Path], is_made: Callable[[], bool]) -> None:
    """Makes `folder`, unless it is made; replaces what else is there.

    Of several processes one writes and the others wait for it. What a killed process left is
    removed by the next (where there are locks).

    Args:
      folder: to make. Its parent holds nothing but such folders.
      write: gets an empty folder beside it, and returns the one there that shall be `folder`.
      is_made: asked when it is this process's turn.
    """
    with _alone(folder.parent) as scratch:
        if is_made():
            return
        new, replaced = scratch / "new", scratch / _REPLACED
        new.mkdir()
        replaced.mkdir()
        whole = write(new)
        if folder.exists():
            os.rename(folder, replaced / folder.name)
        os.rename(whole, folder)


@contextlib.contextmanager
def _alone(parent: Path) -> Iterator[Path]:
    """An empty folder in `parent`, removed at the end, while no other process has one there."""
    handle = _opened(parent)
    locked = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        while not os.path.exists(parent) or not os.path.samestat(os.fstat(handle), parent.stat()):
            os.close(handle)  # removed while we waited
            handle = _opened(parent)
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        locked = False  # some network file systems have no locks
    scratch = parent / (".unfinished" if locked else f".unfinished-{os.getpid()}")
    try:
        for item in (scratch / _REPLACED).glob("*"):  # of one that was killed between two renames
            if not (parent / item.name).exists():
                os.rename(item, parent / item.name)
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):
            parent.rmdir()  # where nothing was made
        os.close(handle)


def _opened(parent: Path) -> int:
    parent.mkdir(parents=True, exist_ok=True)
    return os.open(parent, os.O_RDONLY)
