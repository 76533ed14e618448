"""How long a command takes from its start to the end of its first training step.

Run as a module it is that command: it ends itself after the step and tells when each stage ended.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from msa_jax.errors import UserError

_STARTED = "MSA_JAX_BENCHMARK_STARTED"
_TOLD = "MSA_JAX_BENCHMARK_TOLD"


def measure(config: str, repeats: int = 5) -> dict[str, Any]:
    """Seconds from the start of `python -m msa_jax.main` to marks on the way.

    Args:
      config: FILE.py[:variant].
      repeats: with programs and prepared data kept from the time before; the first time, without
        programs and maybe without data, is told apart.

    Returns:
      `{"cold" | "warm": {"imported": s, "data and state": s, "first step": s}}`; of the warm ones
      the fastest, for what else the machine does only adds.

    Raises:
      UserError: if the command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        times = [_once(config, Path(folder), repeat) for repeat in range(repeats + 1)]
    warm = min(times[1:], key=lambda marks: marks["first step"])
    return {"config": config, "cold": times[0], "warm": warm}


def _once(config: str, folder: Path, repeat: int) -> dict[str, float]:
    told = folder / f"told_{repeat}.json"
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/programs",
        _STARTED: repr(time.time()),
        _TOLD: str(told),
    }
    command = [sys.executable, "-m", __name__, f"--config={config}", f"--workdir={folder}/{repeat}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if not told.exists():
        raise UserError(f"{' '.join(command)} failed: {done.stderr[-1000:]}")
    marks: dict[str, float] = json.loads(told.read_text())
    return marks


def _watched(arguments: Sequence[str]) -> None:
    """The command `arguments` of `msa_jax.main`, up to its first step."""
    marks: dict[str, float] = {}

    def mark(name: str) -> None:
        marks[name] = time.time() - float(os.environ[_STARTED])

    sys.argv = ["msa_jax.main", *arguments]
    from msa_jax import command, main

    def watched() -> None:
        import jax

        from msa_jax import loops, train  # noqa: F401 (what the command imports next)

        mark("imported")
        build = loops.build

        def marked(*given: Any, **named: Any) -> loops.Loops:
            mark("data and state")
            built = build(*given, **named)

            def first(*asked: Any) -> Any:
                jax.block_until_ready(built.take(*asked))
                mark("first step")
                Path(os.environ[_TOLD]).write_text(json.dumps(marks))
                os._exit(0)

            return loops.Loops(1, first)

        with mock.patch.object(loops, "build", marked):
            main.main()

    command.run(watched)


if __name__ == "__main__":
    _watched(sys.argv[1:])
