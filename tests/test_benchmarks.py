"""The benchmarks run and their figures hang together; how fast anything is, is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from msa_jax.benchmarks import input as input_benchmark
from tests.conftest import tiny_config

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_stages_and_ratios_of_the_input(tmp_path: Path) -> None:
    config = tiny_config("attention", "", **{"data.size": "quick", "data.dir": str(tmp_path)})
    found = json.loads(json.dumps(input_benchmark.measure(config, batches=3, repeats=1)))
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["batches"] == 3
    assert 0.5 < found["frames"] <= 1
    training = found["training"]
    for how in ("stream", "resident"):
        ratio = found["ratios"][f"train with {how} to without"]
        assert ratio == pytest.approx(training[how] / training["no feed"])
    streamed = input_benchmark.measure_stream(config)
    assert streamed["examples_per_second"] * streamed["seconds"] == pytest.approx(5000)
    assert len(found["buckets"]) == 2


@pytest.mark.parametrize("config", ["nope.py", "configs/attention.py:qick"])
def test_a_wrong_config_ends_with_one_line(config: str) -> None:
    command = [sys.executable, "scripts/benchmark.py", "input", f"--config={config}"]
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --config={config}: ")
    assert "Traceback" not in done.stderr
