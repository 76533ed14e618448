"""Buckets (`gs://`): sources are copied to this machine once, since readers read in place, and what
was prepared here is copied there.
"""

import functools
import hashlib
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from etils import epath

from msa_jax.data import whole
from msa_jax.errors import UserError


def local(path: str) -> str:
    """`path`, or of one in a bucket the copy here, made where it is missing or has changed.

    Copies are whole or not there, and live in the temporary directory (TMPDIR). Of a folder, the
    files in it are copied, not folders.

    Raises:
      UserError: if the bucket cannot be read.
    """
    if "://" not in path:
        return path
    try:
        place = epath.Path(path)
        files = [item for item in place.iterdir() if item.is_file()] if place.is_dir() else [place]
        stats = [(item.name, item.stat()) for item in sorted(files)]
        known = repr([path, *((name, stat.length, stat.mtime) for name, stat in stats)])
        key = f"fetched-{hashlib.sha256(known.encode()).hexdigest()[:16]}"
        copy = whole.temporary_home() / key / place.name
        copied = functools.partial(_copy, place, files)
        whole.make(copy.parent, copied, copy.exists)
    except UserError:
        raise
    except Exception as error:  # each kind of bucket has errors of its own
        raise UserError(
            f"cannot copy {path} to this machine: {type(error).__name__}: {error}. Check the path, "
            "your credentials, and the room in TMPDIR."
        ) from error
    return str(copy)


def exists(path: epath.Path) -> bool:
    """Whether there is a file or folder, maybe in a bucket.

    Raises:
      UserError: if the bucket cannot be read.
    """
    try:
        return path.exists()
    except Exception as error:
        if "://" not in str(path):
            raise
        raise UserError(
            f"cannot read {path}: {type(error).__name__}: {error}. Check the path and your "
            "credentials."
        ) from error


def make(
    place: epath.Path, write: Callable[[Path], Path], *, last: str, known: str, replace: bool
) -> None:
    """Makes a folder of files in a bucket: here first, then copied.

    Readers take what is there for whole once there is its file `last`. A bucket renames no folders:
    all is copied beside its place, then moved there file by file, `last` at the end. So an
    interrupted copy changes nothing, one that is interrupted while it moves leaves none, and both
    can be repeated without writing it here again. There are no locks: one process at a time.

    Args:
      place: to make.
      write: as for `whole.make`.
      last: name of one of the files.
      known: tells the content from other content of `place`.
      replace: remove what is there, once all is copied.

    Raises:
      UserError: if the bucket or the temporary directory cannot be written.
    """
    key = f"prepared-{hashlib.sha256(f'{place} {known}'.encode()).hexdigest()[:16]}"
    here = whole.temporary_home() / key / place.name
    try:
        whole.make(here, write, (here / last).exists)
    except OSError as error:
        raise UserError(
            f"cannot write {here}, from where {place} is copied: {error.strerror or error}. Set "
            "TMPDIR to a directory with room for it."
        ) from error
    try:
        _publish(here, place, last, replace)
    except Exception as error:  # each kind of bucket has errors of its own
        raise UserError(
            f"cannot write {place}: {type(error).__name__}: {error}. Check the path, your "
            "credentials, and the room in TMPDIR, then run again."
        ) from error
    shutil.rmtree(here.parent)


def _publish(folder: Path, place: epath.Path, last: str, replace: bool) -> None:
    """Copies the files of `folder` to `place`."""
    beside = place.parent / f".unfinished-{uuid.uuid4().hex}"
    names = sorted((item.name for item in folder.iterdir()), key=lambda name: (name == last, name))
    try:
        beside.mkdir(parents=True)
        for name in names:
            with (folder / name).open("rb") as source, (beside / name).open("wb") as copy:
                shutil.copyfileobj(source, copy, 2**24)
        if replace:
            (place / last).unlink(missing_ok=True)
            place.rmtree(missing_ok=True)
        place.mkdir(exist_ok=True)
        for name in names:
            (beside / name).replace(place / name)
    finally:
        beside.rmtree(missing_ok=True)


def _copy(place: epath.Path, files: list[epath.Path], folder: Path) -> Path:
    """Copies `place`, which is or holds `files`, into a folder in `folder`, and returns that."""
    new = folder / "fetched"
    target = new / place.name if files != [place] else new
    target.mkdir(parents=True)
    for item in files:
        with item.open("rb") as source, (target / item.name).open("wb") as copy:
            shutil.copyfileobj(source, copy, 2**24)
    return new
