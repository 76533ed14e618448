"""Which split a video belongs to."""

import json
from pathlib import Path

import pytest

from msa_jax.data.sources.folds import load_folds
from msa_jax.errors import UserError
from tests.conftest import SHARED

EXAMPLE = {"train": ["a", "b"], "valid": ["c"], "test": ["d"]}


@pytest.mark.parametrize(
    ("video", "dataset", "split"),
    [("03bSnISJMiM", "CMU-MOSI", "train"), ("-571d8cVauQ", "CMU-MOSEI", "valid")],
)
def test_the_standard_folds_are_chosen_by_the_videos(
    tmp_path: Path, video: str, dataset: str, split: str
) -> None:
    folds = load_folds(tmp_path, [video, "another"])
    assert folds.name.endswith(dataset)
    assert folds.split_of[video] == split


@pytest.mark.parametrize(("dataset", "count"), [("mosi", 93), ("mosei", 3227)])
def test_the_standard_folds_are_the_sdks(tmp_path: Path, dataset: str, count: int) -> None:
    path = SHARED / f"{dataset}_standard_folds.json"
    if not path.exists():
        pytest.skip(f"needs {path}")
    expected = {v: split for split, ids in json.loads(path.read_text()).items() for v in ids}
    assert load_folds(tmp_path, list(expected)).split_of == expected
    assert len(expected) == count


def test_a_folders_own_folds_come_first(tmp_path: Path) -> None:
    (tmp_path / "folds.json").write_text(json.dumps({"test": ["03bSnISJMiM"]}))
    folds = load_folds(tmp_path, ["03bSnISJMiM"])
    assert folds.split_of == {"03bSnISJMiM": "test"}
    assert "folds.json" in folds.name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "holds no splits"),
        ("{}", "holds no splits"),
        (json.dumps({"dev": ["a"]}), "unknown split 'dev'"),
        (json.dumps({"train": "abc"}), "train must be a list"),
        (json.dumps({"train": [1]}), "train must be a list"),
        (json.dumps({"train": ["a"], "test": ["b", "a"]}), "both train and test"),
    ],
)
def test_wrong_folds_are_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "folds.json").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        load_folds(tmp_path, ["a"])
    assert "folds.json" in str(caught.value)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folds.json").write_bytes(b'{"train": ["\xff"]}')
    with pytest.raises(UserError, match="not JSON"):
        load_folds(tmp_path, ["a"])


def test_videos_of_no_known_dataset_need_their_own_folds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'mine', is in the standard folds .* Add a file folds"):
        load_folds(tmp_path, ["mine", "other"])
