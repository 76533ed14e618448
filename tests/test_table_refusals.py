"""Tables that are refused: each message names the file, the line and the column."""

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msa_jax.data.sources import csv_rows, limits, open_source
from msa_jax.data.sources.tables import Tables
from msa_jax.errors import UserError
from tests.test_tables import CSV, NAN, read, write_parquet

HEAD = "id,score,split,text_0,text_1\n"
TEXTS = {
    "empty": ("", ["is empty"]),
    "header alone": (HEAD, ["no utterance"]),
    "no id": ("Id,score,split,text_0\na,1,train,1\n", ["no column 'id'", "mean 'Id'"]),
    "semicolons": (
        "id;score;split;text_0\na;1;train;1\n",
        ["one column 'id;score;split;text_0'", "Commas"],
    ),
    "no split": ("id,score,text_0\na,1,1\n", ["no column 'split'"]),
    "no modality": ("id,score,split,age\na,1,train,1\n", ["no modality", "age"]),
    "column twice": ("id,score,split,t_0,t_0\n", ["'t_0' occurs twice"]),
    "gap in the numbers": ("id,score,split,t_0,t_2\n", ["t_1 is missing", "t_2"]),
    "numbers from 1": ("id,score,split,t_1,t_2\n", ["t_0 is missing"]),
    "leading zeros": ("id,score,split,t_00,t_01\n", ["'t_00'", "without leading zeros"]),
    "name of a mask": ("id,score,split,a_mask_0\n", ["'a_mask' cannot name a modality"]),
    "reserved name": ("id,score,split,start_0\n", ["'start' cannot name a modality"]),
    "odd name": ("id,score,split,a b_0\n", ["'a b' cannot name a modality", "letters"]),
    "no number": (HEAD + "a,1,train,1,0.2.2\n", ["line 2, column text_1", "'0.2.2'"]),
    "decimal comma": (HEAD + 'a,1,train,"0,5",2\n', ["line 2, column text_0", "'0,5'", "point"]),
    "score no number": (HEAD + "a,good,train,1,2\n", ["line 2, column score", "'good'"]),
    "score missing": (HEAD + "a,,train,1,2\n", ["line 2", "nan for 'a'", "[-3, 3]"]),
    "score outside": (HEAD + "a,1,train,1,2\n\nb,3.5,test,1,2\n", ["line 4", "3.5 for 'b'"]),
    "split unknown": (HEAD + "a,1,dev,1,2\n", ["line 2", "split holds 'dev' for 'a'"]),
    "split missing": (HEAD + "a,1,,1,2\n", ["line 2", "split holds ''"]),
    "id missing": (HEAD + ",1,train,1,2\n", ["line 2", "is empty"]),
    "id twice": (
        HEAD + '"a",1,train,"1\n",2\na,1,test,1,2\n',
        ["'a' (", "line 2", "again 'a' (", "line 4"],
    ),
    "cell too many": (HEAD + "a,1,train,1,2\nb,1,train,1,2,3\n", ["line 3 has 6 cells", "5"]),
    "cell too few": (HEAD + "a,1,train,1\n", ["line 2 has 4 cells"]),
    "quote never closed": (HEAD + 'a,1,train,"1,2\n', ["line 2", "unexpected end of data"]),
    "text after a quote": (HEAD + 'a,1,train,"1"x,2\n', ["line 2", "expected after"]),
    "cell of 200 KB": (HEAD + "a,1,train,1,2\n" + "b" * 200_000 + ",1\n", ["line 3", "limit"]),
    "not UTF-8": (HEAD.encode() + b"\xe9,1,train,1,2\n", ["line 2 is not UTF-8"]),
    "UTF-16": (HEAD.encode("utf-16"), ["line 1 is not UTF-8"]),
    "lone carriage returns": (HEAD.replace("\n", "\r") + "a,1,train,1,2\r", ["line 1", "new-line"]),
    "segment no whole number": (
        "id,score,split,segment,t_0\na,1,train,1.5,1\n",
        ["line 2, column segment", "1.5 is no whole number"],
    ),
    "segment negative": ("id,score,split,segment,t_0\na,1,train,-1,1\n", ["column segment: -1"]),
    "segment infinite": ("id,score,split,segment,t_0\na,1,train,inf,1\n", ["segment: inf"]),
    "start no number": ("id,score,split,start,t_0\na,1,train,0:30,1\n", ["column start", "'0:30'"]),
}


def _refused(path: Path | str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        read(path)
    message = str(error.value)
    for word in [str(path), *words]:
        assert word in message
    assert len(message) < 1000


@pytest.mark.parametrize("name", TEXTS)
def test_refusals_name_file_line_and_column(tmp_path: Path, name: str) -> None:
    text, words = TEXTS[name]
    path = tmp_path / "mine.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    _refused(path, words)


VECTORS = pa.list_(pa.float32())
COLUMNS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no id": ({"id": None}, ["no column 'id'"]),
    "no row": (
        {
            name: pa.array([], kind)
            for name, kind in [
                ("id", pa.string()),
                ("score", pa.float32()),
                ("split", pa.string()),
                ("text", VECTORS),
            ]
        },
        ["empty in every row"],
    ),
    "score as strings": ({"score": ["1", "2", "3"]}, ["column score is string", "numbers"]),
    "split as numbers": ({"split": [0, 1, 2]}, ["column split is int64", "strings"]),
    "transcript as lists": ({"transcript": [["a"]] * 3}, ["transcript is list", "strings"]),
    "score outside": ({"score": [0.0, -3.01, NAN]}, ["2 of 3", "-3.01 for 'u1'", "row 2"]),
    "split unknown": ({"split": ["train", "test", None]}, ["holds '' for 'u2'", "row 3"]),
    "id twice": ({"id": ["a", "b", "a"]}, ["'a' (", "row 1)", "row 3)"]),
    "id missing": ({"id": ["a", None, "b"]}, ["row 2", "is empty"]),
    "widths differ": ({"text": [[1.0], [], [1.0, 2.0]]}, ["row 3, column text", "2 values", "1"]),
    "widths differ within": (
        {"text": [None, [[1.0], [1.0]], [[1.0], [1.0, 2.0]]]},
        ["row 3, column text", "2 values in a frame"],
    ),
    "a frame of nothing": ({"text": [[[1.0]], [[1.0], []], None]}, ["row 2, column text", "0 val"]),
    "absent everywhere": (
        {"text": pa.array([None, [], None], VECTORS)},
        ["text is empty in every"],
    ),
    "no modality": ({"text": ["a", "b", "c"]}, ["no modality", "text"]),
    "reserved name": ({"label": [[1.0]] * 3}, ["'label' cannot name a modality"]),
    "odd name": ({"a.b": [[1.0]] * 3}, ["'a.b' cannot name a modality"]),
    "two ways at once": ({"text_0": [1.0] * 3}, ["'text' both as a list and"]),
    "numbered strings": ({"audio_0": ["1"] * 3}, ["column audio_0 is string", "numbers"]),
    "numbered lists and a gap": ({"a_1": [1.0] * 3}, ["a_0 is missing"]),
    "segment no whole number": ({"segment": [1, 0.5, 2]}, ["row 2, column segment: 0.5"]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_refusals_name_file_row_and_column(tmp_path: Path, name: str) -> None:
    changes, words = COLUMNS[name]
    _refused(write_parquet(tmp_path / "mine.parquet", **changes), words)


def test_refusals_of_folders(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(HEAD + "a,1,train,1,2\n")
    for text, words in (
        (HEAD + "\nb,1,test,1,2\na,1,test,1,2\n", ["'a' (", "a.csv, line 2", "b.csv, line 4"]),
        ("id,score,split,text_0\nb,1,test,1\n", ["b.csv lacks 'text_1', unlike", "a.csv"]),
        (HEAD.strip() + ",x\nb,1,test,1,2,3\n", ["b.csv has the column 'x', unlike"]),
        (HEAD + "b,1,test,1\n", ["b.csv, line 2 has 4 cells"]),
    ):
        second.write_text(text)
        _refused(tmp_path, words)
    second.rename(tmp_path / "b.tsv")
    _refused(tmp_path, ["several kinds, .csv, .tsv"])
    (tmp_path / "b.tsv").unlink()
    first.write_text("id,score,text_0\na,1,1\n")
    _refused(tmp_path, ["no column 'split', and its files are not named train, valid, test: a"])
    first.unlink()
    write_parquet(tmp_path / "train.parquet")
    write_parquet(tmp_path / "test.parquet", text=[[1.0]] * 3)
    _refused(tmp_path, ["train.parquet has 2 values in a frame of text", "test.parquet 1"])
    write_parquet(tmp_path / "test.parquet", text=["a"] * 3)
    _refused(tmp_path, ["test.parquet no: all files"])


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = Path(write_parquet(tmp_path / "mine.parquet"))
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-4] + b"PAR2", CSV.encode()):
        path.write_bytes(content)
        _refused(path, ["as Parquet", "damaged"])


def test_a_changed_table_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    for changed in (HEAD + "b,1,train,1,2\n", HEAD, HEAD + "a,1,train,1,2\na,1,train,1,2\n"):
        path.write_text(HEAD + "a,1,train,1,2\n")
        source = open_source(str(path))
        path.write_text(changed)
        if changed.count("\n") == 3:
            assert [u.id for u in source.utterances("train")] == ["a"]
            continue
        with pytest.raises(UserError, match=r"mine\.csv.* has changed"):
            list(source.utterances("train"))


def test_a_row_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.csv"
    monkeypatch.setattr(csv_rows, "_LONGEST_ROW", 1000)
    path.write_text(HEAD + "a,1,train,1,2\n" * 500)  # rows that end are no trouble
    _refused(path, ["once"])
    for endless in ("x," * 2000, '"\n",' * 2000):
        path.write_text(HEAD + endless)
        _refused(path, ["the row has more than"])


def test_wide_headers_take_no_long_search(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("ID," + ",".join(f"word{n}" for n in range(200_000)))
    _refused(path, ["no column 'id'"])


def test_parquet_that_promises_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = [[0.0] * 1000] * 3000
    path = write_parquet(tmp_path / "zeros.parquet", 3000, text=zeros)
    assert len(Tables(path).channels) == 1
    monkeypatch.setattr(limits, "LARGE", 1 << 20)
    _refused(path, ["would unpack to", "200 times its size"])


def test_without_pyarrow_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "mine.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    _refused(path, ["pyarrow is missing", "pip install"])
