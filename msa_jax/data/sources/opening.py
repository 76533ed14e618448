"""Finds the reader of a file or folder by looking into it."""

import hashlib
from pathlib import Path

from msa_jax.data.sources.contract import Source
from msa_jax.errors import UserError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK"
_PICKLES = (".pkl", ".pickle", ".p")
_KNOWN = (
    "a features file (.npz), a pickle of MultiBench's or MMSA's layout (.pkl), a folder of "
    "CMU-MultimodalSDK .csd files, or .csv, .tsv or .parquet tables"
)
_TABLES = (".csv", ".tsv", ".parquet")


def open_source(path: str, split_column: str = "split") -> Source:
    """The reader of a file or folder, chosen by looking into it.

    Args:
      path: a features file (.npz), a pickle of MultiBench's or MMSA's layout, a folder of
        CMU-MultimodalSDK `.csd` files, or a .csv, .tsv or .parquet file or a folder of them.
      split_column: of a features file or table: the column that holds train, valid or test.

    Raises:
      UserError: if it cannot be read, is of no known format, or is damaged.
    """
    place = _checked(path)
    try:
        if place.is_dir():
            return _open_folder(place, split_column)
        with place.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    if start.startswith(_HDF5):
        raise UserError(
            f"{path} is a single .csd (HDF5) file: name the folder that holds all of them, words, "
            "features and labels."
        )
    if place.suffix.lower() in _TABLES:
        from msa_jax.data.sources.tables import Tables

        return Tables(path, split_column)
    if place.suffix.lower() in _PICKLES or start[:1] == b"\x80":
        return _open_pickle(path)
    if place.suffix.lower() != ".npz" and not start.startswith(_ZIP):
        raise UserError(f"{path} is of no known format: expected {_KNOWN}.")
    from msa_jax.data.sources.features_npz import FeaturesFile

    return FeaturesFile(path, split_column)


def checksum(path: str) -> str:
    """64 hexadecimal digits that change with the content of a file or folder.

    Of a file, its SHA-256; of a folder, that of the names and checksums of the files in it that a
    reader may read.

    Raises:
      UserError: if there is no such file or folder.
    """
    place = _checked(path)
    try:
        if not place.is_dir():
            return _sha256(place)
        whole = hashlib.sha256()
        for item in _inside(place):
            whole.update(f"{item.name}\0{_sha256(item)}\0".encode())
        return whole.hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Check the path.") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _inside(folder: Path) -> list[Path]:
    """What a reader may read of a folder, by name; systems keep files of their own there, too."""
    return sorted(
        item
        for item in folder.iterdir()
        if item.is_file()
        and not item.name.startswith(".")
        and item.suffix.lower() in (".csd", ".json", *_TABLES)
    )


def _checked(path: str) -> Path:
    """A path that can be opened without waiting: pipes and devices are refused."""
    if "://" in path:
        raise UserError(f"{path} is not on this machine: copy it here to prepare it.")
    place = Path(path)
    if place.exists() and not (place.is_dir() or place.is_file()):
        raise UserError(f"{path} is neither a file nor a folder. Check the path.")
    return place


def _open_folder(place: Path, split_column: str) -> Source:
    items = [item for item in place.iterdir() if not item.name.startswith(".")]
    suffixes = {item.suffix.lower() for item in items if item.is_file()}
    if ".csd" in suffixes:
        from msa_jax.data.sources.csd import CsdFolder

        return CsdFolder(str(place))
    if suffixes & set(_TABLES):
        from msa_jax.data.sources.tables import Tables

        return Tables(str(place), split_column)
    found = ", ".join(sorted(suffixes)) or "no file"
    raise UserError(
        f"{place} holds {found}: expected .csd files of the CMU-MultimodalSDK, or .csv or .parquet "
        "tables. See the README, 'Your own data'."
    )


def _open_pickle(path: str) -> Source:
    from msa_jax.data.sources import mmsa, multibench, pickles

    content = pickles.load(path)
    if mmsa.matches(content):
        return mmsa.MmsaPickle(path, content)
    if multibench.matches(content):
        return multibench.MultiBenchPickle(path, content)
    keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
    raise UserError(
        f"{path} is a pickle of neither MultiBench's nor MMSA's layout (found {keys[:200]}): "
        "expected splits train, valid and test that hold text, audio, vision, labels and ids. "
        "Write a features file (.npz) from it: see the README, 'Your own data'."
    )
