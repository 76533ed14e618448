import collections
import contextlib
import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax.data.sources import pickles
from msa_jax.errors import UserError
from tests import pickle_files
from tests.conftest import needs_linux

PLAIN = {
    "floats": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "axes": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "big-endian": np.arange(5, dtype=">i4"),
    "long": np.arange(30_000, dtype=np.float64),
    "half": np.ones(3, np.float16),
    "truth": np.array([True, False]),
    "strings": np.array(["aé", "b"]),
    "bytes": np.array([b"a", b"bc"]),
    "objects": np.array([["a", b"b"], [3, None]], object),
    "arrays": np.array([np.arange(2), np.arange(3)], object),
    "nothing": np.zeros((0, 3), np.float32),
    "no dimension": np.array(2.5),
    "scalar": np.float32(0.5),
    "containers": [1, -(2**40), 2.5, None, True, "é" * 70_000, b"x" * 70_000, (), (1, ("a",))],
    "set": {"a", 3},
    "ordered": collections.OrderedDict(a=1, b=[2]),
    "default": collections.defaultdict(list, {"a": [1]}),
    "empty bytes": b"",
    "bytearray": bytearray(b"abc"),
    3: "a number as key",
}


def equal(found: Any, expected: Any) -> bool:
    """Same values and, of arrays, the same type and shape."""
    if isinstance(expected, np.ndarray) and expected.dtype == object:
        return found.shape == expected.shape and all(
            equal(a, b) for a, b in zip(found.flat, expected.flat, strict=True)
        )
    if isinstance(expected, np.ndarray | np.generic):
        return found.dtype == expected.dtype and found.tolist() == expected.tolist()
    return bool(found == expected)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_come_back_from_every_protocol(tmp_path: Path, protocol: int) -> None:
    found = pickles.load(pickle_files.write(tmp_path / "a.pkl", PLAIN, protocol))
    assert list(found) == list(PLAIN)
    for key, expected in PLAIN.items():
        assert equal(found[key], expected), key


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_names_of_either_numpy_are_known(tmp_path: Path, module: bytes) -> None:
    data = pickle.dumps(np.arange(3), 2).replace(b"numpy._core.multiarray", module)
    (tmp_path / "a.pkl").write_bytes(data)
    assert pickles.load(str(tmp_path / "a.pkl")).tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_pickles_of_python_2_are_read(tmp_path: Path, protocol: int) -> None:
    content = {
        "floats": PLAIN["floats"],
        "fortran": PLAIN["fortran"],
        "long": PLAIN["long"],
        "objects": PLAIN["objects"],
        "strings": PLAIN["strings"],
        "bytes": PLAIN["bytes"],
        "scalar": PLAIN["scalar"],
        "text": ["ascii", b"\xe9 \n'\"", "é", 300, 70_000, -1, 0.1, None, True],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle_files.python2(content, protocol))
    found = pickles.load(str(path))
    for key in ("floats", "fortran", "long", "strings", "bytes", "scalar"):
        assert equal(found[key], content[key]), key
    # Its strings are bytes, which readers decode; keys are decoded already.
    assert found["text"] == [b"ascii", b"\xe9 \n'\"", "é", 300, 70_000, -1, 0.1, None, True]
    assert found["objects"].tolist() == [[b"a", b"b"], [3, None]]


@needs_linux
def test_large_arrays_stay_in_the_file(tmp_path: Path) -> None:
    array = np.ones((200, 1 << 17), np.float64)
    path = pickle_files.write(tmp_path / "a.pkl", {"train": array, "again": [array]})
    code = (
        "import re, sys\n"
        "from msa_jax.data.sources import pickles\n"
        "def anonymous():\n"
        "    return int(re.search(r'RssAnon:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = anonymous()\n"
        "content = pickles.load(sys.argv[1])\n"
        "assert sum(float(row.sum()) for row in content['train']) == 200 * 2**17\n"
        "assert content['again'][0] is content['train']\n"
        "print(anonymous() - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    assert os.path.getsize(path) > 200e6
    assert int(grown.stdout) < 20_000  # KB


@needs_linux
def test_too_little_memory_is_not_called_damage(tmp_path: Path) -> None:
    path = pickle_files.write(tmp_path / "a.pkl", np.ones(1 << 23), 2)
    code = (
        "import re, resource, sys\n"
        "from msa_jax.data.sources import pickles\n"
        "used = int(re.search(r'VmData:\\s+(\\d+)', open('/proc/self/status').read())[1]) << 10\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (used + (32 << 20),) * 2)\n"
        "pickles.load(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "not enough memory to read it" in done.stderr
    assert "with protocol 4" in done.stderr


class Run:
    """Runs a command when an ordinary unpickler reads it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _nested(depth: int, opener: bytes = b"]", closer: bytes = b"a") -> bytes:
    return b"\x80\x04" + opener * depth + closer * (depth - 1) + b"."


def _laughs(levels: int = 40) -> bytes:
    """Lists of ten references each to the list below: 10**40 values in 1 KB."""
    parts = [b"\x80\x04]\x94"]
    for level in range(levels):
        parts.append(b"](" + (b"h" + bytes([level])) * 10 + b"e\x94")
    return b"".join(parts) + b"."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
FLOAT4 = (
    b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
HARMFUL = {
    "os.system": b"cos\nsystem\n(S'touch CANARY'\ntR.",
    "posix.system": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R.",
    "eval": b'c__builtin__\neval\n(S\'open("CANARY", "w")\'\ntR.',
    "INST": b"(S'touch CANARY'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch CANARY'\no.",
    "reduce": pickle.dumps(Run(subprocess.check_call, ["touch", "CANARY"]), 4),
    "nested reduce": pickle.dumps({"train": [Run(os.mkdir, "CANARY")]}, 2),
    "numpy.load": b"cnumpy\nload\n(S'CANARY'\ntR.",
    "numpy.memmap": b"cnumpy\nmemmap\n(S'CANARY'\nS'u1'\nS'w+'\nI0\n(I9\nttR.",
    "getattr": b"c__builtin__\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "dunder of an allowed name": b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93.",
    "class itself": b"cnumpy\nndarray\n.",
    "call of a class": b"cnumpy\nndarray\n(I3\ntR.",
    "call of a string": b"S'x'\n(tR.",
    "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "new object with keywords": b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)}\x92.",
    "state for a name": b"cnumpy\ndtype\n}S'name'\nS'system'\nsb.",
    "state in slots": b"cnumpy\ndtype\n(N}S'name'\nS'system'\nstb.",
    "state for a list": b"](I1\nI2\ntb.",
    "state twice": ARRAY + (b"(K\x01K\x01\x85" + FLOAT4 + b"\x89U\x040000tb") * 2 + b".",
    "persistent id": b"Pthing\n.",
    "binary persistent id": b"S'x'\nQ.",
    "extension": b"\x80\x02\x82\x01.",
    "buffer outside": b"\x80\x05\x97.",
    "huge memo index": b"\x80\x02]r\xff\xff\xff\xff.",
    "huge memo line": b"]p99999999999999999999\n.",
    "2**62 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "2**62 bytes of a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"abc.",
    "2**63 bytes in a frame": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.",
    "4 GB of text": b"\x80\x02X\xff\xff\xff\xffabc.",
    "negative string": b"T\xff\xff\xff\xffabc.",
    "deep list": _nested(10**5),
    "deep tuple": b"\x80\x02N" + b"\x85" * 10**5 + b".",
    "deep marks": b"(" * 10**5 + b".",
    "billion laughs": _laughs(),
    "contains itself": b"\x80\x02]q\x00h\x00a.",
    "dict contains itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "tuple as key": b"\x80\x02}K\x01\x85K\x02s.",
    "list in a set": b"\x80\x04\x8f(]\x90.",
    "array without content": b"\x80\x02" + ARRAY + b".",
    "content too short": ARRAY + b"(K\x01K\x02\x85" + FLOAT4 + b"\x89U\x040000tb.",
    "negative shape": ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT4 + b"\x89U\x040000tb.",
    "absurd shape": ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + FLOAT4 + b"\x89U\x040000tb.",
    "structured type": ARRAY
    + b"(K\x01K\x01\x85"
    + FLOAT4.replace(b"f4", b"V4")
    + b"\x89U\x040000tb.",
    "string as objects": ARRAY
    + b"(K\x01K\x04\x85"
    + FLOAT4.replace(b"f4", b"O8")
    + b"\x89U\x040000tb.",
    "colliding keys": b"\x80\x02}("
    + b"".join(b"\x8a\x08" + struct.pack("<q", k << 40) + b"N" for k in range(10**5))
    + b"u.",
    "copies of copies": b"\x80\x02]("
    + b"K\x01" * 10**4
    + b"eq\x00]("
    + b"c__builtin__\nset\nh\x00\x85R" * 10**4
    + b"e.",
    "no pickle": b"hello, world",
    "web page": b"<!DOCTYPE html><html></html>",
    "zip": b"PK\x03\x04" + bytes(30),
    "unknown protocol": b"\x80\x63N.",
    "no stop": b"\x80\x02N",
    "empty stack": b"\x80\x02.",
    "odd escape": b"S'\\q'\n0.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HARMFUL)
def test_anything_else_is_refused_quickly_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pkl").write_bytes(HARMFUL[name])
    start = time.monotonic()
    with pytest.raises(UserError, match=r"a\.pkl"):
        pickles.load("a.pkl")
    assert time.monotonic() - start < 10
    assert os.listdir() == ["a.pkl"]


def test_the_canary_dies_in_an_ordinary_unpickler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "posix.system", "eval", "INST", "OBJ", "reduce", "nested reduce"):
        with pytest.warns(ResourceWarning) if name == "eval" else contextlib.nullcontext():
            result = pickle.loads(HARMFUL[name])
            del result
        assert os.path.exists("CANARY"), name
        os.rmdir("CANARY") if os.path.isdir("CANARY") else os.remove("CANARY")


def test_a_refused_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(HARMFUL["os.system"])
    with pytest.raises(UserError, match=r"a\.pkl asks to run 'os\.system': it is not a data file"):
        pickles.load(str(tmp_path / "a.pkl"))


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    whole = pickle.dumps({"a": np.zeros(10**5)}, 4)
    for size in (100, 10**5, len(whole) - 1):
        (tmp_path / "a.pkl").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"truncated or damaged.*Download it again"):
            pickles.load(str(tmp_path / "a.pkl"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe"):
        with pytest.raises(UserError, match=path.name):
            pickles.load(str(path))
    with pytest.raises(UserError, match="null"):
        pickles.load("a\0b")
