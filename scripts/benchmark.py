"""Measures speed on this machine, as ratios within one run.

python scripts/benchmark.py input [--config=configs/attention.py] [--data_dir=DIR] [--out=FILE.json]
  what the input pipeline delivers, in examples a second, stage by stage, and what that costs a
  train step
python scripts/benchmark.py stream --size=tenfold [...]
  one epoch of ten times CMU-MOSEI through the streaming feed, and the memory it takes
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from msa_jax.errors import UserError


def main() -> None:
    """Parses the command line, measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["input", "stream"])
    parser.add_argument(
        "--config", default="configs/attention.py", help="FILE.py or FILE.py:variant"
    )
    parser.add_argument("--data_dir", default="", help="where prepared datasets live")
    parser.add_argument("--size", default="full", help="of the synthetic dataset")
    parser.add_argument("--batches", type=int, default=200, help="of a measurement, for input")
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()

    from msa_jax import workdir
    from msa_jax.benchmarks import input as benchmark

    config = _load(args.config)
    config.data.update(dir=args.data_dir, size=args.size)
    try:
        if args.what == "input":
            found = benchmark.measure(config, batches=args.batches)
        else:
            found = benchmark.measure_stream(config)
    except UserError as error:
        sys.exit(f"error: {error}")
    _show(found)
    if args.out:
        workdir.write_json(args.out, found)


def _show(found: dict[str, Any], indent: str = "") -> None:
    for name, value in found.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            _show(value, indent + "  ")
        elif isinstance(value, float):
            print(f"{indent}{name:32s} {value:12,.{0 if value > 1000 else 2}f}")
        else:
            print(f"{indent}{name:32s} {value}")


def _load(name: str) -> Any:
    """The config of `FILE.py` or `FILE.py:variant`."""
    path, _, variant = name.partition(":")
    root = str(Path(__file__).parents[1])
    sys.path.insert(0, root)  # configs import one another from the project's root
    spec = importlib.util.spec_from_file_location("benchmarked_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


if __name__ == "__main__":
    main()
