"""What the README shows is so."""

import re
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from msa_jax import models, train
from msa_jax.data.sources import open_source
from tests.conftest import random_batch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _block(language: str, containing: str) -> str:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    (found,) = [text for kind, text in blocks if kind == language and containing in text]
    return found


@pytest.fixture
def gated_sum(monkeypatch: pytest.MonkeyPatch) -> str:
    """Does what the section on adding a fusion says; returns the code that it took."""
    head = _block("python", "class GatedSum")
    names: dict = {}
    exec(compile(head, "README.md", "exec"), names)
    monkeypatch.setitem(models.FUSIONS, "gated_sum", names["GatedSum"])
    config = (ROOT / "configs" / "early.py").read_text()
    assert '`"name": "gated_sum", "temperature": 1.0`' in README.replace("\n", " ")
    return head + config.replace('"name": "early"', '"name": "gated_sum", "temperature": 1.0')


def test_the_fusion_model_it_shows_works(gated_sum: str) -> None:
    model = models.build(
        {"name": "gated_sum", "temperature": 0.5, "encoder": {"width": 8, "num_heads": 2}},
        modalities=("text", "audio"),
        num_outputs=3,
    )
    batch = random_batch()
    batch["audio_mask"][0] = False
    output = model.apply(model.init(jax.random.key(0), batch, False), batch, False)
    assert output.logits.shape == (6, 3)
    assert float(output.weights["audio"][0]) == 0.0
    assert float(output.weights["text"][0]) == pytest.approx(1.0)


def test_a_fusion_model_is_added_in_few_lines_and_trains(
    gated_sum: str, write_features: Callable[..., str], tmp_path: Path
) -> None:
    assert len(gated_sum.splitlines()) < 60
    names: dict = {}
    _, config_file = gated_sum.split('"""A1, early', 1)
    exec(compile('"""A1, early' + config_file, "configs/gated_sum.py", "exec"), names)
    config = names["get_config"]("quick")
    config.data.update(path=write_features(), buckets=1)
    config.model.encoder.update(width=8, num_heads=2)
    config.training.update(epochs=1)
    config.lock()  # as it is for flags: what has no field is refused
    config.model.temperature = 0.5
    results = train.train_and_evaluate(config, str(tmp_path / "run"))
    assert set(results["splits"]["test"]["weights"]) == {"text", "audio", "vision"}


def test_links_and_paths_exist() -> None:
    for path in re.findall(r"`((?:configs|scripts|launch|msa_jax|tests)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


def test_it_tells_of_every_file_of_the_package() -> None:
    shown = _block("", "errors.py")
    for path in (ROOT / "msa_jax").rglob("*.py"):
        if path.name != "__init__.py":
            assert path.name in shown or path.stem in shown, f"{path} is not in the README's map"


def test_the_files_of_your_own_it_shows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    count = 6
    arrays = {
        "ids": np.array([f"a{i}" for i in range(count)]),
        "scores": np.linspace(-3, 3, count),
        "splits": np.array(["train"] * 4 + ["valid", "test"]),
        "videos": np.array(["a"] * count),
        "segments": np.arange(count) + 1,
        "words": np.array(["so it is"] * count),
        "text": np.ones((count, 5, 3), np.float32),
        "text_lengths": np.arange(count) % 5 + 1,
        "audio": np.ones((count, 2), np.float32),
        "ids_of_frames": np.zeros((count, 4), int),
        "table": np.ones((7, 3), np.float32),
        "vision_lengths": np.arange(count) % 5,
    }
    exec(compile(_block("python", "np.savez"), "README.md", "exec"), arrays)
    source = open_source("mine.npz")
    assert dict(source.channels) == {"audio": 2, "text": 3, "vision": 3}
    assert len(list(source.utterances("train"))) == 4
    Path("mine.csv").write_text(_block("csv", "text_0"))
    table = open_source("mine.csv")
    rows = list(table.utterances("train"))
    assert [row.score for row in rows] == [1.5, -0.5]
    assert [len(row.frames["audio"]) for row in rows] == [1, 0]
    assert np.isnan(rows[1].frames["text"][0, 1])
