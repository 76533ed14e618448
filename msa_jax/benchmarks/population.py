"""What many seeds in one program cost, beside as many runs one after the other."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def measure(config: str, seeds: int = 10, repeats: int = 2) -> dict[str, Any]:
    """Whole commands, start to end, in processes of their own and with no program kept from before.

    Lone runs and the population take turns; a lone run's median stands for each of `seeds` runs.

    Args:
      config: FILE.py[:variant].
      seeds: of the population.
      repeats: of the population; each follows on a lone run.

    Returns:
      Median seconds of a lone run and of the population, the ratio of `seeds` lone runs to it, and
      both's examples a second while they trained, all seeds together.
    """
    seconds: dict[int, list[float]] = {1: [], seeds: []}
    rates: dict[int, list[float]] = {1: [], seeds: []}
    for _ in range(repeats):
        for count in (1, seeds):
            with tempfile.TemporaryDirectory() as directory:
                command = [sys.executable, "-m", "msa_jax.main", f"--config={config}"]
                command += [f"--workdir={directory}/run", f"--config.num_seeds={count}"]
                start = time.perf_counter()
                subprocess.run(
                    command,
                    check=True,
                    stdout=subprocess.DEVNULL,
                    env=_without_cache(directory),
                )
                seconds[count].append(time.perf_counter() - start)
                results = json.loads((Path(directory) / "run" / "results.json").read_text())
                rates[count].append(results["examples_per_second"])
    alone, together = statistics.median(seconds[1]), statistics.median(seconds[seeds])
    return {
        "config": config,
        "seeds": seeds,
        "seconds": {"one run": alone, "population": together},
        "runs one after the other, seconds": seeds * alone,
        "times cheaper": seeds * alone / together,
        "examples_per_second": {
            "one run": statistics.median(rates[1]),
            "population": statistics.median(rates[seeds]),
        },
    }


def _without_cache(directory: str) -> dict[str, str]:
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{directory}/programs"}
