"""Tables written by hand: text for .csv and .tsv, pyarrow for .parquet."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msa_jax.data.schema import Utterance
from msa_jax.data.sources import open_source, parquet_rows
from msa_jax.errors import UserError
from tests.conftest import needs_linux

NAN = math.nan
MAJOR = int(pa.__version__.split(".")[0])

# Byte order mark, CRLF, quotes, line breaks in quotes, empty lines, an unnamed column; the columns
# of a modality in no order; text is unknown in part in c, audio is absent in b.
CSV = (
    "\ufeff,id,score,split,video_id,segment,start,end,transcript,text_1,text_0,audio_0,mood\r\n"
    '0,a,-3,train,v,1,0.5,2.25,"Well, ""yes""\r\nit was",2,1,10,x\r\n'
    "\r\n"
    "1,b,+1.5e0,valid,v,2,,,,4,3,,y\r\n"
    '2,"c",0.333333333333333333,test,,,nan,,é,,5,-inf,\r\n'
)


def read(path: Path | str, split_column: str = "split") -> dict[str, list[Utterance]]:
    """All utterances by split, through the door that everybody uses."""
    source = open_source(str(path), split_column)
    return {split: list(source.utterances(split)) for split in source.splits}


def equal(frames: np.ndarray, expected: Any) -> bool:
    """Same shape and values, NaN like NaN, as float32."""
    expected = np.asarray(expected, np.float32)
    return (
        frames.dtype == np.float32
        and frames.shape == expected.shape
        and np.array_equal(frames, expected, equal_nan=True)
    )


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv"])
def test_a_text_table_gives_one_vector_an_utterance(tmp_path: Path, suffix: str) -> None:
    text = CSV.replace("Well, ", "Well\t") if suffix == ".tsv" else CSV
    swapped = text.replace(",", "\t") if suffix == ".tsv" else text
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(swapped.encode())
    source = open_source(str(path))
    assert source.format == "tables"
    assert source.channels == {"audio": 1, "text": 2}
    assert list(source.splits) == ["train", "valid", "test"]
    assert source.report.found == {"train": 1, "valid": 1, "test": 1}
    assert source.report.notes == ["Columns that are not read: (without a name), mood."]
    (a,), (b,), (c,) = read(path).values()
    assert (a.id, a.score, a.video_id, a.segment, a.start, a.end) == ("a", -3, "v", 1, 0.5, 2.25)
    said = 'Well\t"yes"\r\nit was' if suffix == ".tsv" else 'Well, "yes"\r\nit was'
    assert a.transcript == said
    assert equal(a.frames["text"], [[1, 2]])
    assert equal(a.frames["audio"], [[10]])
    assert (b.id, b.score, b.segment, b.transcript) == ("b", 1.5, 2, "")
    assert math.isnan(b.start)
    assert math.isnan(b.end)
    assert equal(b.frames["text"], [[3, 4]])
    assert equal(b.frames["audio"], np.zeros((0, 1)))
    assert (c.id, c.video_id, c.segment, c.transcript) == ("c", "c", 0, "é")
    assert c.score == 1 / 3
    assert equal(c.frames["text"], [[5, NAN]])
    assert equal(c.frames["audio"], [[-math.inf]])


def _columns(rows: int = 3, **changes: Any) -> dict[str, Any]:
    """Columns of a small Parquet table; None leaves one out."""
    given = {
        "id": [f"u{row}" for row in range(rows)],
        "score": [float(row % 4) for row in range(rows)],
        "split": [("train", "valid", "test")[row % 3] for row in range(rows)],
        "text": [[float(row), 1.0] for row in range(rows)],
        **changes,
    }
    return {name: column for name, column in given.items() if column is not None}


def write_parquet(path: Path, rows: int = 3, options: Any = None, **changes: Any) -> str:
    """Writes `_columns` with pyarrow."""
    pq.write_table(pa.table(_columns(rows, **changes)), path, **(options or {}))
    return str(path)


LISTS = {
    "lists": pa.list_(pa.list_(pa.float32())),
    "large lists of doubles": pa.large_list(pa.large_list(pa.float64())),
    "half floats": pa.list_(pa.list_(pa.float16())),
    "lists of one length": pa.list_(pa.list_(pa.float32(), 2)),
}


@pytest.mark.parametrize("name", LISTS)
def test_parquet_has_vectors_sequences_and_numbered_columns(tmp_path: Path, name: str) -> None:
    if name == "half floats" and MAJOR < 25:
        pytest.skip("this pyarrow does not make them of Python's numbers")
    # Older releases of pyarrow cannot read missing lists of one length: see the next test.
    gap = [None, None] if name == "lists of one length" else None
    path = write_parquet(
        tmp_path / "mine.parquet",
        rows=4,
        id=pa.array([7, 8, 9, 10]),
        split=pa.array(["train", "train", "valid", "train"]).dictionary_encode(),
        segment=pa.array([1.0, NAN, None, 2.0]),
        start=pa.array([1, None, 2, 3]),
        transcript=pa.array(["é", None, "", "é"], pa.large_string()),
        text=pa.array([[[1, 2], [3, 4], [5, 6]], None, [], [[7, 8], gap]], LISTS[name]),
        audio=pa.array([[1, 2, 3], [], None, [None, 5, 6]], pa.list_(pa.float64())),
        vision=pa.array([[0, 0], [1, 2], [3, None], [0, 0]], pa.list_(pa.float32(), 2)),
        face_1=pa.array([1, None, None, 4]),
        face_0=pa.array([1.5, 2.5, None, 4.5]),
        tokens=pa.array([[1], [2], [3], [4]], pa.list_(pa.int64())),
    )
    source = open_source(path)
    assert source.channels == {"audio": 3, "face": 2, "text": 2, "vision": 2}
    assert source.report.notes == ["Columns that are not read: tokens."]
    utterances = read(path)
    first, second, fourth = utterances["train"]
    (third,) = utterances["valid"]
    assert [u.id for u in (first, second, third, fourth)] == ["7", "8", "9", "10"]
    assert [u.segment for u in (first, second, third, fourth)] == [1, 0, 0, 2]
    assert [u.transcript for u in (first, second, third, fourth)] == ["é", "", "", "é"]
    assert (first.start, fourth.start) == (1, 3)
    assert math.isnan(second.start)
    assert equal(first.frames["text"], [[1, 2], [3, 4], [5, 6]])
    assert equal(second.frames["text"], np.zeros((0, 2)))
    assert equal(third.frames["text"], np.zeros((0, 2)))
    assert equal(fourth.frames["text"], [[7, 8], [NAN, NAN]])
    assert equal(first.frames["audio"], [[1, 2, 3]])
    assert equal(second.frames["audio"], np.zeros((0, 3)))
    assert equal(third.frames["audio"], np.zeros((0, 3)))
    assert equal(fourth.frames["audio"], [[NAN, 5, 6]])
    assert equal(second.frames["vision"], [[1, 2]])
    assert equal(third.frames["vision"], [[3, NAN]])
    assert equal(first.frames["face"], [[1.5, 1]])
    assert equal(second.frames["face"], [[2.5, NAN]])
    assert equal(third.frames["face"], np.zeros((0, 2)))


@pytest.mark.skipif(MAJOR < 25, reason="this pyarrow cannot write them either")
def test_missing_lists_of_one_length(tmp_path: Path) -> None:
    lists = pa.array([[1, 2], None, [3, None]], pa.list_(pa.float32(), 2))
    path = write_parquet(tmp_path / "mine.parquet", text=lists)
    if MAJOR < 26:
        with pytest.raises(UserError, match=r"cannot read missing lists.*update it"):
            read(path)
        return
    (first,), (second,), (third,) = read(path).values()
    assert equal(first.frames["text"], [[1, 2]])
    assert equal(second.frames["text"], np.zeros((0, 2)))
    assert equal(third.frames["text"], [[3, NAN]])


def test_batches_and_row_groups_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.standard_normal((n, 3)).tolist() for n in rng.integers(0, 9, 500)]
    path = write_parquet(tmp_path / "one.parquet", 500, text=sequences)
    expected = read(path)
    assert sum(len(items) for items in expected.values()) == 500
    for items in expected.values():
        for item in items:
            row = int(item.id[1:])
            assert equal(item.frames["text"], np.reshape(sequences[row], (-1, 3)))
            assert item.frames["text"].base is None, "it would keep its whole batch in memory"
    monkeypatch.setattr(parquet_rows, "_BATCH_BYTES", 2000)
    write_parquet(tmp_path / "many.parquet", 500, {"row_group_size": 37}, text=sequences)
    found = read(tmp_path / "many.parquet")
    for split, items in expected.items():
        for item, again in zip(items, found[split], strict=True):
            assert (item.id, item.score) == (again.id, again.score)
            assert equal(again.frames["text"], item.frames["text"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_of_splits_or_shards(tmp_path: Path, kind: str) -> None:
    def write(name: str, ids: list[str], split: list[str] | None) -> None:
        if kind == "csv":
            rows = [
                f"{own},1,{i}.5" + (f",{split[i]}" if split else "") for i, own in enumerate(ids)
            ]
            head = "id,score,text_0" + (",split" if split else "")
            (tmp_path / name).with_suffix(".csv").write_text("\n".join([head, *rows]))
        else:
            changes = {"score": [1.0] * len(ids), "id": ids, "split": split}
            vectors = [[i + 0.5] for i in range(len(ids))]
            write_parquet((tmp_path / name).with_suffix(".parquet"), text=vectors, **changes)

    write("train", ["a", "b"], None)
    write("test", ["c"], None)
    (tmp_path / "README.md").write_text("not a table")
    (tmp_path / f"._train.{kind}").write_text("what some systems leave")
    assert {split: [u.id for u in items] for split, items in read(tmp_path).items()} == {
        "train": ["a", "b"],
        "test": ["c"],
    }
    # With a split column the names say nothing, and any are good.
    write("train", ["a", "b"], ["valid", "train"])
    write("test", ["c"], ["train"])
    found = read(tmp_path)
    assert {split: [u.id for u in items] for split, items in found.items()} == {
        "train": ["c", "b"],
        "valid": ["a"],
    }
    assert [u.frames["text"].item() for u in found["train"]] == [0.5, 1.5]


def test_a_modality_may_be_absent_from_a_whole_shard(tmp_path: Path) -> None:
    kind = pa.list_(pa.list_(pa.float32()))
    write_parquet(tmp_path / "a.parquet", audio=pa.array([None, [], None], kind))
    write_parquet(
        tmp_path / "b.parquet", audio=pa.array([[[1, 2]], None, []], kind), id=["x", "y", "z"]
    )
    source = open_source(str(tmp_path))
    assert source.channels == {"audio": 2, "text": 2}
    absent, present = source.utterances("train")
    assert equal(absent.frames["audio"], np.zeros((0, 2)))
    assert equal(present.frames["audio"], [[1, 2]])


def test_another_column_may_tell_the_split(tmp_path: Path) -> None:
    text = "id,score,split,split_video,t_0\na,1,train,test,1\nb,1,test,train,2\n"
    (tmp_path / "a.csv").write_text(text)
    assert [u.id for u in read(tmp_path / "a.csv", "split_video")["train"]] == ["b"]
    assert open_source(str(tmp_path / "a.csv"), "split_video").report.notes == []
    path = write_parquet(tmp_path / "a.parquet", fold=["test", "valid", "train"])
    assert [u.id for u in read(path, "fold")["train"]] == ["u2"]
    with pytest.raises(UserError, match=r"no column 'split_vide'.*Did you mean 'split_video'"):
        open_source(str(tmp_path / "a.csv"), "split_vide")


MEMORY = r"""
import re, resource, sys
from msa_jax.data.sources import open_source
import pyarrow.parquet
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
def used():  # but for the pages of the file itself, which is mapped
    return int(re.search(r"RssAnon:\s+(\d+)", open("/proc/self/status").read())[1])
before = used()
source = open_source(sys.argv[1])
total = most = 0
for split in source.splits:
    for utterance in source.utterances(split):
        total += len(utterance.transcript)
        most = max(most, used())
print(total, most - before)
"""


@needs_linux
@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    rows = 4096
    frames = np.random.default_rng(0).standard_normal((rows, 200 * 64)).astype(np.float32)
    inner = pa.FixedSizeListArray.from_arrays(pa.array(frames.reshape(-1)), 64)
    sequences = pa.ListArray.from_arrays(np.arange(0, rows * 200 + 1, 200, np.int32), inner)
    # One text that all rows share takes little in the file and 4 GB where it is written out.
    shared = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["x" * (1 << 20)]))
    path = write_parquet(tmp_path / "large.parquet", rows, text=sequences, transcript=shared)
    assert Path(path).stat().st_size > 180e6
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    total, grown = map(int, done.stdout.split())
    assert total == rows << 20
    assert grown < 150_000  # KB
