"""Computational sequences that are damaged, unsafe or of another layout are refused by name."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from msa_jax.data.schema import Utterance
from msa_jax.data.sources import computational_sequence, csd
from msa_jax.errors import UserError
from tests.csd_files import ROOTS, scene, write_csd, write_scene


def everything(folder: Path) -> list[Utterance]:
    source = csd.CsdFolder(str(folder))
    return [utterance for split in source.splits for utterance in source.utterances(split)]


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
    folder = write_scene(tmp_path / "data", scene())
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        everything(folder)
    assert str(folder / file) in str(caught.value)


@pytest.mark.parametrize("patience", [60.0, -1.0])
def test_words_of_variable_length_are_first_read_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    made = scene()
    folder = write_scene(tmp_path, made)
    expected = [utterance.transcript for utterance in everything(folder)]
    entries = {v: (said.astype(object), spans) for v, (said, spans) in made["words"].items()}
    write_csd(folder / "words.csd", "words", entries)
    monkeypatch.setattr(computational_sequence, "PATIENCE", patience)
    if patience > 0:
        assert [utterance.transcript for utterance in everything(folder)] == expected
    else:
        with pytest.raises(UserError, match=r"words\.csd: its words cannot be read \(Timeout"):
            everything(folder)
