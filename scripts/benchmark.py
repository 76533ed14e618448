"""Measures speed on this machine, as ratios within one run.

python scripts/benchmark.py input [--config=configs/attention.py] [--data_dir=DIR]
  what the input pipeline delivers, in examples a second, stage by stage, and what that costs a
  train step
python scripts/benchmark.py stream [--size=tenfold]
  one epoch of ten times CMU-MOSEI through the streaming feed, and the memory it takes (run it
  twice: the first prepares the data)
python scripts/benchmark.py alignment [--fraction=0.1]
  reading .csd files of CMU-MOSEI's shape, in a process of its own
python scripts/benchmark.py population [--config=configs/attention.py:quick] [--seeds=10]
  many seeds in one program beside as many runs one after the other

Each takes --out=FILE.json.
"""

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

from msa_jax.errors import UserError


def main() -> None:
    """Parses the command line, measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for what, size in (("input", "full"), ("stream", "tenfold")):
        command = commands.add_parser(what)
        command.add_argument("--config", default="configs/attention.py", help="FILE.py[:variant]")
        command.add_argument("--data_dir", default="", help="where prepared datasets live")
        command.add_argument("--size", default=size, help="of the synthetic dataset")
    commands.choices["input"].add_argument("--batches", type=int, default=200)
    alignment = commands.add_parser("alignment")
    alignment.add_argument("--fraction", type=float, default=0.1, help="of CMU-MOSEI's videos")
    alignment.add_argument("--directory", help="for the generated files, up to 6 GB")
    population = commands.add_parser("population")
    population.add_argument("--config", default="configs/attention.py:quick")
    population.add_argument("--seeds", type=int, default=10)
    population.add_argument("--repeats", type=int, default=2)
    for command in commands.choices.values():
        command.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    try:
        found = _measure(args)
    except UserError as error:
        sys.exit(f"error: {error}")
    _show(found)
    if args.out:
        from msa_jax import workdir

        workdir.write_json(args.out, found)


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.what == "alignment":
        from msa_jax.benchmarks import alignment

        return alignment.measure(args.fraction, directory=args.directory)
    if args.what == "population":
        from msa_jax.benchmarks import population

        return population.measure(args.config, args.seeds, args.repeats)
    from msa_jax.benchmarks import input as input_benchmark

    config = _load(args.config)
    config.data.update(dir=args.data_dir, size=args.size)
    if args.what == "stream":
        return input_benchmark.measure_stream(config)
    return input_benchmark.measure(config, batches=args.batches)


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
    sys.path.insert(0, str(Path(__file__).parents[1]))  # configs import one another from there
    try:
        return runpy.run_path(path)["get_config"](variant)
    except (OSError, ValueError) as error:
        raise UserError(f"--config={name}: {error}") from error


if __name__ == "__main__":
    main()
