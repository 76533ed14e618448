"""A process that trains on a CPU keeps the memory of its steps."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

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
