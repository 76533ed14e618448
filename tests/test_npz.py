"""What an .npz promises is checked before it is unpacked; nothing in it is ever run."""

import io
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax.data.sources import limits, npz
from msa_jax.errors import UserError

PLAIN = {
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "big-endian": np.arange(5, dtype=">i4"),
    "half": np.ones((3, 0), np.float16),
    "truth": np.array([True, False]),
    "strings": np.array(["aé", "", "\U0001f600"]),
    "foreign strings": np.array(["aé"]).astype(">U2"),
    "bytes": np.array([b"a", b"bc"]),
    "times": np.array(["2020-01-01"], "M8[s]"),
    "no dimension": np.array(2.5),
    "nothing": np.zeros((0, 5), np.float32),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_plain_arrays_come_back_as_numpy_reads_them(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "plain.npz"
    save(path, **PLAIN)
    found = npz.load(str(path))
    with np.load(path) as expected:
        assert list(found) == list(expected)
        for name, array in found.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])


def test_any_number_of_bytes_may_be_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "plain.npz", **PLAIN)
    monkeypatch.setattr(npz, "_CHUNK", 7)
    found = npz.load(str(tmp_path / "plain.npz"))
    np.testing.assert_array_equal(found["fortran"], PLAIN["fortran"])


def _member(array: np.ndarray, **options: Any) -> bytes:
    """The content of an .npy file."""
    content = io.BytesIO()
    np.lib.format.write_array(content, array, **options)
    return content.getvalue()


def _headed(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An .npy file with a header of one's own."""
    size = struct.pack("<H" if version[0] == 1 else "<I", len(header) + 1)
    return b"\x93NUMPY" + version + size + header.encode() + b"\n" + content


def _shaped(shape: str, content: bytes = b"", dtype: str = "'<f4'") -> bytes:
    return _headed(f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}", content)


def _zip(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return content.getvalue()


def _directory(data: bytes, offset: int, value: bytes) -> bytes:
    """A zip with other bytes in its first member's entry of the directory at the end."""
    start = data.index(b"PK\x01\x02") + offset
    return data[:start] + value + data[start + len(value) :]


ONES = _zip(("a.npy", _member(np.ones(100, np.float32))))
TWO = _zip(("a.npy", _member(np.ones(3))), ("b.npy", _member(np.zeros(3))))
DAMAGED = bytearray(ONES)
DAMAGED[200] ^= 1

# Name: (content, words of the message).
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a zip"),
    "text": (b"id,score\n", "not a zip"),
    "single array": (_member(np.ones(3)), "single array"),
    "cut off": (ONES[:-30], "cut off"),
    "cut at the front": (ONES[40:], "copied again"),
    "flipped bit": (bytes(DAMAGED), "Bad CRC-32"),
    "objects": (
        _zip(("a.npy", _member(np.array([{}]), allow_pickle=True))),
        "'a.npy' holds Python objects",
    ),
    "records": (_zip(("a.npy", _member(np.zeros(3, "i4,f4")))), "expected plain numbers"),
    "raw bytes": (_zip(("a.npy", _member(np.zeros(3, "V4")))), "expected plain numbers"),
    "size of nothing": (_zip(("a.npy", _shaped("(3,)", dtype="'<U0'"))), "expected plain numbers"),
    "other member": (_zip(("readme.txt", b"hello")), "'readme.txt', which is no array"),
    "a folder": (_zip(("a/", b"")), "'a/', which is no array"),
    "encrypted": (_directory(ONES, 8, b"\x01\x00"), "'a.npy' is encrypted"),
    "other method": (
        _zip(("a.npy", _member(np.ones(3))), method=zipfile.ZIP_LZMA),
        "not compressed as NumPy does it",
    ),
    "newer zip": (_directory(ONES, 6, b"\xff\x00"), "damaged"),
    "duplicate": (TWO.replace(b"b.npy", b"a.npy"), "'a.npy' twice"),
    "member beyond the file": (_directory(TWO, 42, struct.pack("<I", 2**31)), "cut off"),
    "overlapping sizes": (
        _directory(_directory(ONES, 20, struct.pack("<I", 2**31)), 24, struct.pack("<I", 2**31)),
        "overlap",
    ),
    "promises more than deflate can give": (
        _directory(ONES, 24, struct.pack("<I", 2**32 - 2)),
        "cannot hold the 4294967294 bytes",
    ),
    "no header": (_zip(("a.npy", b"abc")), "no header"),
    "empty member": (_zip(("a.npy", b"")), "no header"),
    "version 3": (_zip(("a.npy", _headed("{}", version=b"\x03\x00"))), "(3, 0)"),
    "header of 4 GB": (
        _zip(("a.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100))),
        "no header of a plain array",
    ),
    "header runs code": (_zip(("a.npy", _headed("__import__('os').system('touch x')"))), "header"),
    "header is deep": (_zip(("a.npy", _headed("(" * 9000))), "no header of a plain array"),
    "header is a long sum": (_zip(("a.npy", _headed("1" + "+1" * 4900))), "header"),
    "header is a long sign": (_zip(("a.npy", _headed("-" * 9900 + "1"))), "header"),
    "shape too large": (_zip(("a.npy", _shaped("(1000,)", bytes(8)))), "holds 8"),
    "shape too small": (_zip(("a.npy", _shaped("(1,)", bytes(8)))), "holds 8"),
    "2**62 values": (_zip(("a.npy", _shaped(f"({2**62},)"))), "holds 0"),
    "values beyond 64 bits": (_zip(("a.npy", _shaped(f"({2**63}, 2)"))), "holds 0"),
    "a number of many digits": (_zip(("a.npy", _shaped(f"(0x{'f' * 8000},)"))), "damaged"),
    "empty and enormous": (_zip(("a.npy", _shaped(f"(0, {2**62})"))), "impossible shape"),
    "negative": (_zip(("a.npy", _shaped("(-2, -2)", bytes(16)))), "impossible shape"),
    "many dimensions": (_zip(("a.npy", _shaped(f"({'1,' * 40})", bytes(4)))), "impossible shape"),
    "enormous strings": (
        _zip(("a.npy", _shaped("(0,)", dtype="'<U500000000'"))),
        "impossible shape",
    ),
    "no characters": (
        _zip(("a.npy", _shaped("(1,)", struct.pack("<I", 0x110000), "'<U1'"))),
        "not Unicode",
    ),
    "half a character": (
        _zip(("a.npy", _shaped("(1,)", struct.pack(">I", 0xD800), "'>U1'"))),
        "not Unicode",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = BAD[name]
    Path("bad.npz").write_bytes(content)
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(UserError, match=r"bad\.npz") as error:
            npz.load("bad.npz")
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()
    assert words in str(error.value)
    assert len(str(error.value)) < 1000
    assert time.monotonic() - start < 10
    assert [item.name for item in tmp_path.iterdir()] == ["bad.npz"], "something was run"


def test_a_bomb_is_refused_and_real_features_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "features.npz")
    monkeypatch.setattr(limits, "LARGE", 1 << 20)
    np.savez_compressed(path, text=np.zeros(1 << 20, np.float32))
    with pytest.raises(UserError, match=r"would unpack to 4194432: more than 1 GiB.*200 times"):
        npz.load(path)
    padded = np.zeros((64, 50, 300), np.float32)
    padded[:, -5:] = np.random.default_rng(0).standard_normal((64, 5, 300))
    np.savez_compressed(path, text=padded)
    np.testing.assert_array_equal(npz.load(path)["text"], padded)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.npz"):
        with pytest.raises(UserError, match=f"cannot read .*{path.name}"):
            npz.load(str(path))
