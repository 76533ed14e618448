"""Measures speed on this machine, as ratios within one run.

python scripts/benchmark.py input [--config=configs/attention.py] [--data_dir=DIR] [--out=FILE.json]
  what the input pipeline delivers, stage by stage, and what that costs a train step
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
    parser.add_argument("what", choices=["input"])
    parser.add_argument(
        "--config", default="configs/attention.py", help="FILE.py or FILE.py:variant"
    )
    parser.add_argument("--data_dir", default="", help="where prepared datasets live")
    parser.add_argument("--batches", type=int, default=200, help="of a measurement")
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()

    from msa_jax import workdir
    from msa_jax.benchmarks import input as input_benchmark

    config = _load(args.config)
    config.data.dir = args.data_dir
    try:
        found = input_benchmark.measure(config, batches=args.batches)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"{found['dataset']}, batches of {found['batch_size']}, examples a second")
    for group in ("stages", "training"):
        print(f"{group}:")
        for name, rate in found[group].items():
            print(f"  {name:24s} {rate:12,.0f}")
    for name, ratio in found["ratios"].items():
        print(f"{name}: {ratio:.2f}")
    print(f"real frames among those computed: {100 * found['frames']:.1f} %")
    print(f"peak memory: {found['peak_memory_gb']:.2f} GB")
    if args.out:
        workdir.write_json(args.out, found)


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
