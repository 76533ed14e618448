"""A process that trains on a CPU has a device a core for its seeds, and keeps its memory."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jax.sharding import Mesh

from msa_jax import cpu, train
from tests.conftest import tiny_config
from tests.test_processes import command

ROOT = Path(__file__).parents[1]

# A step with temporaries of 128 MB: sums over one, to and fro, that no fusion can avoid.
PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from msa_jax import cpu, sharding
from msa_jax.config import Mesh

if "keep" in sys.argv:
    cpu.prepare(1)
mesh = sharding.build_mesh(Mesh())
if "keep" in sys.argv:
    cpu.keep_memory(mesh)

@jax.jit
def step(x):
    large = jnp.cumsum(jnp.broadcast_to(x, (2**25,)))
    return jnp.cumsum(large[::-1])[-1]

x = jnp.float32(1)
for _ in range(3):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(*arguments: str) -> int:
    """Of a step that takes 128 MB, which are 32,768 pages, after it was taken three times."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    one_device = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env=one_device
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told")
def test_memory_of_a_step_is_kept() -> None:
    without = _page_faults()
    if without < 10_000:
        pytest.skip("the kernel gives large pages, or the C library keeps memory by itself")
    assert _page_faults("keep") < 1_000


def test_training_keeps_memory(
    write_features: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Mesh] = []
    monkeypatch.setattr(cpu, "keep_memory", asked.append)
    config = tiny_config("text", write_features(), **{"training.epochs": 1})
    train.train_and_evaluate(config, str(tmp_path / "run"))
    assert [mesh.size for mesh in asked] == [1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are counted on Linux")
def test_the_command_spreads_seeds_over_cores(
    write_features: Callable[..., str], tmp_path: Path
) -> None:
    several = ("--config.num_seeds=2", "--config.training.epochs=1", "--config.data.buckets=1")
    arguments = command(write_features(), tmp_path / "run", *several)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    subprocess.run(arguments, check=True, cwd=ROOT, env=environment, capture_output=True)
    recorded = json.loads((tmp_path / "run" / "seed_0" / "results.json").read_text())
    devices = min(2, len(os.sched_getaffinity(0)))
    assert recorded["environment"]["device"].startswith(f"{devices} x cpu")
