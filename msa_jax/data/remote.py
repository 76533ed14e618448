"""Buckets (`gs://`): sources are copied to this machine once, since readers read in place, and what
was prepared here is copied there.
"""

import functools
import hashlib
import shutil
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


def publish(folder: Path, place: epath.Path, last: str) -> None:
    """Copies the files of `folder` to `place` in a bucket, in place of what is there.

    A bucket has no renaming at once. Its readers take what it holds for whole once there is a file
    `last`: that one is removed first and copied last, so that a copy that is interrupted is none,
    and can be repeated.

    Raises:
      UserError: if the bucket cannot be written.
    """
    try:
        (place / last).unlink(missing_ok=True)
        if place.exists():
            place.rmtree()
        place.mkdir(parents=True, exist_ok=True)
        for item in sorted(folder.iterdir(), key=lambda item: (item.name == last, item.name)):
            with item.open("rb") as source, (place / item.name).open("wb") as copy:
                shutil.copyfileobj(source, copy, 2**24)
    except Exception as error:  # each kind of bucket has errors of its own
        raise UserError(
            f"cannot write {place}: {type(error).__name__}: {error}. Check the path and your "
            "credentials, then run again."
        ) from error


def _copy(place: epath.Path, files: list[epath.Path], folder: Path) -> Path:
    """Copies `place`, which is or holds `files`, into a folder in `folder`, and returns that."""
    new = folder / "fetched"
    target = new / place.name if files != [place] else new
    target.mkdir(parents=True)
    for item in files:
        with item.open("rb") as source, (target / item.name).open("wb") as copy:
            shutil.copyfileobj(source, copy, 2**24)
    return new
