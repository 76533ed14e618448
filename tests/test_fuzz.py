"""Damaged files of every format are read or refused in words, and never anything else.

A longer campaign than the gate's, on one format:
  FUZZ_COUNT=20000 FUZZ_SEED=1 pytest tests/test_fuzz.py -k parquet
"""

import faulthandler
import io
import json
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import csd_files, pickle_files
from tests.conftest import features, needs_linux

Files = dict[str, bytes]

SEED = int(os.environ.get("FUZZ_SEED", 0))
SECONDS_A_FILE = 20
ADDRESS_SPACE = 3 << 30  # beyond what imports take
MOST_MEMORY = 400_000  # KB, more than undamaged files take

# What opens more of a format than chance would: its own words, and harm where there is a language.
_NUMBERS = (0, 1, -1, 2**7, 2**15 - 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, 2**63 - 1)
_HARM = (
    b"cos\nsystem\n(S'touch CANARY'\ntR",
    b'c__builtin__\nexec\n(S\'open("CANARY", "w")\'\ntR',
    b"\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R",
    b"(S'touch CANARY'\nios\nsystem\n",
)
TOKENS: dict[str, tuple[bytes, ...]] = {
    "npz": (b"(", b")", b"|O", b"<U9", b">f8", b"True", b"99999999999", b"PK\x01\x02", *_HARM),
    "csv": (*b'",\n\r\t\0_-', b'""', b"1e999", b"nan", b"\xef\xbb\xbf", b"split", b"text_0,"),
    "parquet": (b"PAR1", b"\x15", b"\x19", b"\x1c", b"\xff\xff\xff\xff\x0f", b"ARROW:schema"),
    "multibench": _HARM,
    "mmsa": _HARM,
    "csd": (b"TREE", b"SNOD", b"HEAP", b"\xff" * 8, b"deflate"),
}


def npz_files() -> list[Files]:
    small = features(count=10)
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, **small)
    np.savez_compressed(packed, **small, start=np.ones(10), segment=np.arange(10))
    return [{"a.npz": plain.getvalue()}, {"a.npz": packed.getvalue()}]


def csv_files() -> list[Files]:
    head = "id,score,split,video_id,segment,start,end,transcript,text_0,text_1,audio_0\r\n"
    rows = [
        f'u{row},{row % 7 - 3},{("train", "valid", "test")[row % 3]},v,{row},{row}.5,,"a ""b""'
        f'\n,{row}",{row / 7},-{row}e-3,{row if row % 2 else ""}\r\n'
        for row in range(20)
    ]
    return [{"a.csv": ("\ufeff" + head + "".join(rows)).encode()}]


def parquet_files() -> list[Files]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 20
    table = pa.table(
        {
            "id": [f"u{row}" for row in range(rows)],
            "score": [row % 7 - 3.0 for row in range(rows)],
            "split": [("train", "valid", "test")[row % 3] for row in range(rows)],
            "segment": list(range(rows)),
            "transcript": [None if row % 5 else "é" * row for row in range(rows)],
            "text": [[[row, 1.5]] * (row % 4) for row in range(rows)],
            "audio": [None if row == 3 else [row, 2.5, None] for row in range(rows)],
            "face": pa.array([[row, 1] for row in range(rows)], pa.list_(pa.float32(), 2)),
            "eyes_0": list(range(rows)),
        }
    )
    made = []
    for options in (
        {"compression": "none", "use_dictionary": False},
        {"compression": "snappy", "row_group_size": 7},
        {"compression": "zstd", "data_page_version": "2.0", "store_schema": False},
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink, **options)
        made.append({"a.parquet": sink.getvalue()})
    return made


def _pickles(content: Any) -> list[Files]:
    protocols = [pickle.dumps(content, protocol) for protocol in range(6)]
    old = [pickle_files.python2(content, protocol) for protocol in range(3)]
    return [{"a.pkl": data} for data in protocols + old]


def multibench_files() -> list[Files]:
    return _pickles(pickle_files.multibench(sizes={"train": 3, "test": 2}))


def mmsa_files() -> list[Files]:
    return _pickles(pickle_files.mmsa(sizes={"train": 3, "test": 2}))


def csd_folders(folder: Path) -> list[Files]:
    made = []
    rng = np.random.default_rng(0)
    videos = {f"video{k}": np.arange(20 + k) for k in range(3)}
    split = {"train": ["video0"], "valid": ["video1"], "test": ["video2"]}
    words = {v: np.array([b"a", b"sp", b"word"])[n % 3, None] for v, n in videos.items()}
    edges = {v: np.stack([n, n + 1], 1).astype(np.float32) for v, n in videos.items()}
    spans = np.array([[0, 5], [4, 12], [12, 20]], np.float32)
    for number, options in enumerate(({"compression": "gzip"}, {"chunks": True}, {})):
        home = folder / f"original{number}"
        home.mkdir()
        (home / "folds.json").write_text(json.dumps(split))
        labels = {v: (rng.uniform(-3, 3, (3, 1)).astype(np.float32), spans) for v in videos}
        said = {v: (words[v].astype("S32"), edges[v]) for v in videos}
        csd_files.write_csd(home / "labels.csd", "Opinion Segment Labels", labels, **options)
        csd_files.write_csd(home / "words.csd", "words", said, **options)
        for root, channels in (("glove_vectors", 300), ("COVAREP", 74), ("FACET", 35)):
            frames = {v: rng.standard_normal((len(n), channels)) for v, n in videos.items()}
            both = {v: (frames[v].astype(np.float32), edges[v]) for v in videos}
            csd_files.write_csd(home / f"{root}.csd", root, both, **options)
        made.append({item.name: item.read_bytes() for item in sorted(home.iterdir())})
    return made


ORIGINALS: dict[str, Callable[[], list[Files]]] = {
    "npz": npz_files,
    "csv": csv_files,
    "parquet": parquet_files,
    "multibench": multibench_files,
    "mmsa": mmsa_files,
}
# How many damaged files the gate reads of each.
COUNTS = {**dict.fromkeys(ORIGINALS, 1500), "csd": 400}


def damage(content: bytes, rng: np.random.Generator, tokens: tuple[Any, ...]) -> bytes:
    """A copy with one to four damages, more of them near the two ends, where headers are."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 4))):
        size = max(1, len(data))
        near = int(rng.integers(0, min(size, 1500)))
        place = (near, size - 1 - near, int(rng.integers(0, size)))[rng.integers(0, 3)]
        block = slice(place, place + int(rng.integers(1, 300)))
        other = int(rng.integers(0, size))
        match rng.integers(0, 10):
            case 0 | 1 if data:
                data[place] ^= 1 << rng.integers(0, 8)
            case 2 if data:
                data[place] = rng.choice((0, 1, 127, 128, 255, ord("9"), ord("-")))
            case 3:
                value = int(rng.choice(len(_NUMBERS)))
                number = struct.pack("<q", _NUMBERS[value])[: rng.choice((4, 8))]
                data[place : place + len(number)] = number
            case 4 if rng.random() < 0.3:
                del data[place:]
            case 5:
                data[block] = bytes(len(data[block]))
            case 6:
                data[other : other + len(data[block])] = data[block]
            case 7:
                data[other:other] = data[block]
            case 8:
                del data[place : place + int(rng.integers(1, 20))]
            case _:
                token = tokens[rng.integers(0, len(tokens))]
                data[place:place] = bytes([token]) if isinstance(token, int) else token
    return bytes(data)


def damage_member(content: bytes, rng: np.random.Generator, tokens: tuple[Any, ...]) -> bytes:
    """A zip with a damaged member, whose checksum is right all the same."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            data = old.read(name)
            if name == chosen:
                head = 130 if rng.random() < 0.5 else len(data)
                data = damage(data[:head], rng, tokens) + data[head:]
            new.writestr(name, data)
    return made.getvalue()


def cases(form: str, originals: list[Files], seed: int, count: int) -> Iterator[tuple[Files, str]]:
    """Files with one of them damaged, and its name; case k of a seed is always the same."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        files = dict(originals[number % len(originals)])
        name = sorted(files)[rng.integers(0, len(files))]
        content, tokens = files[name], TOKENS[form]
        if form == "npz" and rng.random() < 0.8:
            files[name] = damage_member(content, rng, tokens)
        else:
            # Most bytes of a pickle are frames, which no damage makes unreadable.
            cut = 1500 if form in ("mmsa", "multibench") and rng.random() < 0.5 else len(content)
            files[name] = damage(content[:cut], rng, tokens) + content[cut:]
        yield files, name


class Canary(BaseException):
    """Raised where something is run, written or reached: no reader can take it for damage."""


_FORBIDDEN = re.compile(
    r"os\.(system|exec|posix_spawn|fork|forkpty|spawn|kill|remove|rename|mkdir|rmdir|chmod|putenv"
    r"|link|symlink|truncate)|subprocess\..*|socket\..*|ctypes\..*|shutil\..*|pickle\.find_class"
)


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook (`sys.addaudithook`): Python itself tells of all that has an effect."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 0o3
    if WATCHED["on"] and (_FORBIDDEN.fullmatch(event) or writes):
        WATCHED["seen"] = f"{event} {arguments!r}"[:500]
        raise Canary(WATCHED["seen"])


WATCHED: dict[str, Any] = {"on": False, "seen": ""}


def memory(field: str) -> int:
    """KB of this process; VmHWM is the peak."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def read(path: str) -> None:
    """Reads a source to its end, and checks what its utterances promise."""
    from msa_jax.data.schema import SCORE_RANGE, SPLITS
    from msa_jax.data.sources import open_source

    source = open_source(path)
    assert set(source.splits) <= set(SPLITS)
    for split in source.splits:
        for utterance in source.utterances(split):
            for text in (utterance.id, utterance.video_id, utterance.transcript):
                text.encode()
            assert utterance.id
            assert SCORE_RANGE[0] <= utterance.score <= SCORE_RANGE[1]
            assert type(utterance.segment) is int
            assert 0 <= utterance.segment < 2**31
            assert type(utterance.start) is type(utterance.end) is float
            assert utterance.frames.keys() == source.channels.keys()
            for modality, frames in utterance.frames.items():
                assert frames.dtype == np.float32
                assert frames.shape == (len(frames), source.channels[modality])
                np.isfinite(frames).all()


def campaign(form: str, count: int, seed: int, folder: str) -> None:
    """Reads damaged files in `folder`, one after another; prints how many were read and refused."""
    from msa_jax.errors import UserError

    home = Path(folder)
    originals = ORIGINALS[form]() if form in ORIGINALS else csd_folders(home.parent)
    warnings.simplefilter("error")
    paths = []
    for files in originals:
        for name, content in files.items():
            (home / name).write_bytes(content)
        paths = [str(home if form == "csd" else home / name) for name in files]
        read(paths[0])
    before, environment = memory("VmRSS"), dict(os.environ)
    limit = (memory("VmSize") << 10) + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(watch)
    outcomes = {"read": 0, "refused": 0}
    for number, (files, damaged) in enumerate(cases(form, originals, seed, count)):
        for name, content in files.items():
            if name == damaged or form == "csd":
                (home / name).write_bytes(content)
        # Ends this process, stuck in C or not, and tells where.
        faulthandler.dump_traceback_later(SECONDS_A_FILE, exit=True)
        WATCHED["on"] = True
        message = ""
        try:
            read(paths[0])
        except UserError as error:
            message = str(error)
        except BaseException:
            print(f"case {number} of seed {seed}: {home / damaged}", file=sys.stderr)
            raise
        finally:
            WATCHED["on"] = False
            faulthandler.cancel_dump_traceback_later()
        outcomes["refused" if message else "read"] += 1
        assert not message or (folder in message and len(message) < 3000), message
        grown = memory("VmHWM") - before
        assert grown < MOST_MEMORY, f"case {number} of seed {seed} took {grown} KB: {damaged}"
        assert not WATCHED["seen"], WATCHED["seen"]
    assert dict(os.environ) == environment
    assert sorted(item.name for item in home.iterdir()) == sorted(originals[0])
    print(outcomes["read"], outcomes["refused"], memory("VmHWM") - before)


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize("form", COUNTS)
def test_damaged_files_are_read_or_refused(tmp_path: Path, form: str) -> None:
    count = int(os.environ.get("FUZZ_COUNT", COUNTS[form]))
    home = tmp_path / "damaged"
    home.mkdir()
    code = (
        f"from tests.test_fuzz import campaign; campaign({form!r}, {count}, {SEED}, {str(home)!r})"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        capture_output=True,
        text=True,
        timeout=120 + count,
        cwd=home.parent,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"
    counted, refused, _ = map(int, done.stdout.split()[-3:])
    assert counted + refused == count
    assert min(counted, refused) > count // 50, "the damage is all too small or all too great"


def test_the_canary_sees_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WATCHED, "on", True)
    monkeypatch.setitem(WATCHED, "seen", "")
    for event, arguments in (
        ("os.system", (b"touch x",)),
        ("subprocess.Popen", ("touch", ["touch", "x"], None, None)),
        ("pickle.find_class", ("os", "system")),
        ("open", (str(tmp_path / "x"), "w", os.O_WRONLY | os.O_CREAT)),
    ):
        with pytest.raises(Canary):
            watch(event, arguments)
    watch("open", (str(tmp_path / "x"), "r", os.O_RDONLY))
