"""What names a source's content."""

from pathlib import Path

import pytest

from msa_jax.data.sources import checksum, open_source
from msa_jax.errors import UserError


def test_every_byte_of_what_is_read_counts(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    content = bytearray(b"id,score\n" * 400_000)
    (folder / "train.csv").write_bytes(content)
    (folder / "test.csv").write_bytes(b"id,score\n")
    seen = {checksum(str(folder)), checksum(str(folder / "train.csv"))}
    assert len(seen) == 2
    content[len(content) // 2] ^= 1
    (folder / "train.csv").write_bytes(content)
    seen |= {checksum(str(folder)), checksum(str(folder / "train.csv"))}
    assert len(seen) == 4
    (folder / "test.csv").rename(folder / "valid.csv")
    assert checksum(str(folder)) not in seen


def test_what_is_not_read_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.csd").write_bytes(b"a")
    before = checksum(str(tmp_path))
    for name in (".DS_Store", "._a.csd", "README.txt"):
        (tmp_path / name).write_bytes(b"b")
    assert checksum(str(tmp_path)) == before
    (tmp_path / "folds.json").write_text("{}")
    assert checksum(str(tmp_path)) != before


@pytest.mark.parametrize("name", ["notes.txt", "script.py", "no_suffix"])
def test_an_unknown_file_is_told_what_is_known(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello")
    with pytest.raises(UserError, match=rf"{name} is of no known format: expected .*\.npz.*\.csd"):
        open_source(str(tmp_path / name))
