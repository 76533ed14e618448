"""Named datasets: prepared once, whole or not at all, with a card that tells the truth."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax import train
from msa_jax.config import Data
from msa_jax.data import builders, card, dataset, prepare
from msa_jax.data.sources import features_npz
from msa_jax.errors import UserError
from msa_jax.tasks import three_class
from tests import pickle_files
from tests.conftest import CHANNELS, features, tiny_config

ROOT = Path(__file__).parents[1]
Write = Callable[..., str]


def test_the_card_counts_what_is_there(write_features: Write, tmp_path: Path) -> None:
    arrays = features()
    audio = arrays["audio"]
    audio[0, 1], audio[61, 1] = np.nan, -np.inf
    prepared = prepare.prepare(write_features(audio=audio), "mine", str(tmp_path / "data"))
    page = json.loads((prepared.directory / "card.json").read_text())
    assert page == prepared.card
    assert page["source"]["format"] == "features_npz"
    assert page["source"]["file"] == "features.npz"
    for split, rows in (("train", slice(60)), ("valid", slice(60, 80)), ("test", slice(80, 100))):
        entry = page["splits"][split]
        scores, lengths = arrays["score"][rows], arrays["text_length"][rows]
        assert entry["found"] == entry["kept"] == len(scores)
        assert entry["dropped"] == {}
        assert entry["videos"] == len(set(arrays["video_id"][rows]))
        for closure in ("closed", "right_closed"):
            shares = np.bincount(three_class(scores, closure), minlength=3) / len(scores)
            np.testing.assert_allclose(
                list(entry["class_shares"][closure].values()), shares, atol=1e-6
            )
        text = entry["modalities"]["text"]
        assert text["frames"] == lengths.sum()
        assert text["lengths"]["longest"] == lengths.max()
        frames = np.concatenate([t[:n] for t, n in zip(arrays["text"][rows], lengths, strict=True)])
        np.testing.assert_allclose(text["columns"]["greatest"], frames.max(axis=0), atol=1e-5)
        np.testing.assert_allclose(text["columns"]["least"], frames.min(axis=0), atol=1e-5)
        np.testing.assert_allclose(text["columns"]["mean"], frames.mean(axis=0), atol=1e-5)
        vision = entry["modalities"]["vision"]
        assert vision["absent"] == (arrays["vision_length"][rows] == 0).sum()
    assert page["splits"]["train"]["modalities"]["audio"]["not_finite"] == [0, 1, 0]
    assert page["splits"]["valid"]["modalities"]["audio"]["not_finite"] == [0, 1, 0]
    shown = (prepared.directory / "card.md").read_text()
    for words in ("| train | 60 | none | 60 | 15 |", "(-1, 1]", "utterances/mine/1.0.0@"):
        assert words in shown


def test_videos_in_two_splits_are_warned_of(write_features: Write, tmp_path: Path) -> None:
    videos = features()["video_id"].astype("U9")
    videos[99] = "video0"
    page = prepare.prepare(write_features(video_id=videos), "mine", str(tmp_path)).card
    assert page["videos_in_two_splits"] == {"train and test": ["video0"]}
    assert "1 in train and test (video0)" in card.markdown(page)
    assert "**Warning:**" in card.markdown(page)


def test_a_name_keeps_its_content_unless_told(write_features: Write, tmp_path: Path) -> None:
    first, second = write_features(), write_features("other.npz", count=50)
    root = str(tmp_path / "data")
    there = prepare.prepare(first, "mine", root)
    assert not there.was_there
    assert prepare.prepare(first, "mine", root).was_there
    for source, column in ((second, "split"), (first, "split_mine")):
        with pytest.raises(UserError, match=r"\(features.npz, splits by 'split'\).*--overwrite"):
            prepare.prepare(source, "mine", root, split_column=column)
    before = builders.fingerprint(there.builder)
    replaced = prepare.prepare(second, "mine", root, overwrite=True)
    assert builders.fingerprint(replaced.builder) != before
    assert replaced.card["splits"]["train"]["kept"] == 30
    assert builders.open_prepared(before, root) is None
    home = tmp_path / "data" / "utterances"
    assert [entry.name for entry in home.iterdir()] == ["mine"], "nothing is left over"


def test_a_refused_source_leaves_the_dataset_there(write_features: Write, tmp_path: Path) -> None:
    root = str(tmp_path / "data")
    prepare.prepare(write_features(), "mine", root)
    broken = write_features("broken.npz", score=None)
    with pytest.raises(UserError, match="'score'"):
        prepare.prepare(broken, "mine", root, overwrite=True)
    assert len(dataset.load(Data(name="mine", dir=root)).splits["train"]) == 60
    assert [entry.name for entry in (tmp_path / "data" / "utterances").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["", "a/b", "../up", "synthetic_mosei", "1st", "a b"])
def test_names_that_cannot_be(write_features: Write, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a dataset"):
        prepare.prepare(write_features(), name, str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_unknown_names_are_refused_with_the_nearest(write_features: Write, tmp_path: Path) -> None:
    prepare.prepare(write_features(), "mosei_glove", str(tmp_path))
    with pytest.raises(UserError, match=r"'mosei_glov'.*Did you mean 'mosei_glove'"):
        dataset.load(Data(name="mosei_glov", dir=str(tmp_path)))


def test_the_command_prepares_what_training_takes(write_features: Write, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/prepare_data.py", f"--source={write_features()}"]
    command += ["--name=mine", f"--data_dir={tmp_path / 'data'}"]
    done = subprocess.run(command, cwd=ROOT, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = f":mosi --workdir=DIR --config.data.name=mine --config.data.dir={tmp_path / 'data'}"
    assert shown in done.stdout, "60 utterances are few"
    overrides = {"data.name": "mine", "data.dir": str(tmp_path / "data"), "training.epochs": 1}
    results = train.train_and_evaluate(tiny_config("early", "", **overrides), str(tmp_path / "run"))
    assert results["dataset"]["fingerprint"].startswith("utterances/mine/1.0.0@")
    wrong = [*command[:2], "--source=nowhere", "--name=mine"]
    done = subprocess.run(wrong, cwd=ROOT, timeout=300, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot read nowhere")


def test_other_splits_of_the_same_file_are_other_data(
    write_features: Write, tmp_path: Path
) -> None:
    splits = features()["split"]
    path = write_features(split_back=splits[::-1].copy())
    root = str(tmp_path / "data")
    first = prepare.prepare(path, "mine", root)
    before = builders.fingerprint(first.builder)
    again = prepare.prepare(path, "mine", root, split_column="split_back", overwrite=True)
    assert builders.fingerprint(again.builder) != before
    assert builders.open_prepared(before, root) is None
    paths = {builders.identify(Data(path=path, split_column=c)) for c in ("split", "split_back")}
    assert len(paths) == 2


def test_a_file_that_changes_while_it_is_read_is_refused(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root = write_features(), str(tmp_path / "data")
    read = features_npz.FeaturesFile.utterances

    def replaced(self: Any, split: str) -> Any:
        if split == "valid":
            write_features(score=features()["score"][::-1].copy())
        return read(self, split)

    with monkeypatch.context() as patched:
        patched.setattr(features_npz.FeaturesFile, "utterances", replaced)
        with pytest.raises(UserError, match="has changed while it was read"):
            prepare.prepare(path, "mine", root)
        write_features()
        with pytest.raises(UserError, match="has changed while it was read"):
            builders.prepare(Data(path=path, dir=root))
    assert not list((tmp_path / "data").rglob("*.array_record*"))


def test_data_to_test_on_need_no_train_split(write_features: Write, tmp_path: Path) -> None:
    source = write_features(count=30, split=np.array(["test"] * 30))
    command = [sys.executable, "scripts/prepare_data.py", f"--source={source}", "--name=others"]
    command += [f"--data_dir={tmp_path / 'data'}"]
    done = subprocess.run(command, cwd=ROOT, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "It has no train and no valid" in done.stdout
    assert "--data_name=others" in done.stdout


def test_a_split_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    content = pickle_files.multibench()
    content["valid"]["text"][:] = 0
    path = pickle_files.write(tmp_path / "mosei.pkl", content)
    with pytest.raises(UserError, match=r"no utterance of the split valid is left .*: 3 no text\)"):
        prepare.prepare(path, "mine", str(tmp_path / "data"))
    assert not list((tmp_path / "data").rglob("*.array_record*"))


def test_a_place_that_cannot_be_written_is_named(write_features: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file.*Choose another --data_dir"):
        prepare.prepare(write_features(), "mine", str(tmp_path / "file"))
    assert str(builders.named_directory("mine", "gs://bucket/data")).startswith("gs://bucket/data/")


@pytest.mark.slow
def test_the_command_shown_trains_on_the_modalities_there_are(
    write_features: Write, tmp_path: Path
) -> None:
    source = write_features(vision_ids=None, vision_table=None, vision_length=None)
    command = [sys.executable, "scripts/prepare_data.py", f"--source={source}", "--name=two"]
    command += [f"--data_dir={tmp_path / 'data'}"]
    done = subprocess.run(
        command, cwd=ROOT, timeout=300, capture_output=True, text=True, check=True
    )
    (shown,) = [line for line in done.stdout.splitlines() if line.startswith("  python -m")]
    arguments = shlex.split(shown.replace("DIR ", f"{tmp_path / 'run'} "))
    arguments[0] = sys.executable
    few = ["--config.training.epochs=1", "--config.model.encoder.width=8"]
    subprocess.run([*arguments, *few], cwd=ROOT, timeout=300, check=True, capture_output=True)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["modalities"] == ["audio", "text"]


def test_an_utterance_in_two_splits_is_refused(
    monkeypatch: pytest.MonkeyPatch, write_features: Write, tmp_path: Path
) -> None:
    original = builders.Utterances._splits

    def leaking(self: Any) -> Any:
        return {**original(self), "test": self._source.utterances("train")}

    monkeypatch.setattr(builders.Utterances, "_splits", leaking)
    with pytest.raises(UserError, match=r"'video0\[0\]' is in both train and test"):
        prepare.prepare(write_features(), "mine", str(tmp_path / "data"))
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


# What `tfds build` runs; its entry point imports apache-beam, which TFDS does not declare.
TFDS_BUILD = """
import sys
import simple_parsing
from tensorflow_datasets.scripts.cli import build

parser = simple_parsing.ArgumentParser()
parser.add_arguments(build.Args, dest="build")
parser.parse_args(sys.argv[1:]).build.execute()
"""


def test_tfds_own_command_line_builds_it(write_features: Write, tmp_path: Path) -> None:
    config = json.dumps({"name": "mine", "path": write_features()})
    command = [sys.executable, "-W", "ignore", "-c", TFDS_BUILD, "utterances"]
    command += ["--imports=msa_jax.data.builders", f"--config={config}"]
    command += [f"--data_dir={tmp_path}", "--file_format=array_record"]
    done = subprocess.run(command, cwd=ROOT, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = dataset.load(Data(name="mine", dir=str(tmp_path)))
    assert dict(loaded.schema.channels) == CHANNELS
