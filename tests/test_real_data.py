"""The six systems on real CMU-MOSI features, where these lie beside the project."""

from pathlib import Path

import pytest

from msa_jax import train
from tests.conftest import SHARED, tiny_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.exists(), reason=f"no real features in {SHARED}"),
]


@pytest.mark.parametrize("kind", ["three_class", "regression"])
@pytest.mark.parametrize("system", ["text", "audio", "vision", "late", "early", "attention"])
@pytest.mark.parametrize("file", ["mosi_utterance.npz", "mosi_glove.npz"])
def test_systems_train_on_mosi(tmp_path: Path, file: str, system: str, kind: str) -> None:
    overrides = {"task.kind": kind, "training.epochs": 1, "data.max_length": 114}
    config = tiny_config(system, str(SHARED / file), **overrides)
    results = train.train_and_evaluate(config, str(tmp_path / "run"))
    assert results["splits"]["valid"]["n"] == 238
    assert results["splits"]["test"]["n"] == 752
    assert results["dataset"]["lengths"].get("text", 0) in ((1, 0) if "utter" in file else (114, 0))
