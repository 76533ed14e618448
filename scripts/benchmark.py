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
python scripts/benchmark.py train [--config FILE.py ...] [--sizes 64x2 128x4] [--against=torch]
  whole training steps on utterances as long as CMU-MOSEI's, one seed and several at once, beside
  the paper's model in PyTorch as its users run it
python scripts/benchmark.py cost [--config=FILE.py]
  how a step's time and its operations grow with examples, frames, width and layers
python scripts/benchmark.py startup [--config=configs/attention.py:quick]
  seconds from the command to its first training step

Each takes --out=FILE.json.
"""

import argparse
import runpy
import sys
from dataclasses import replace
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
    commands.choices["input"].add_argument("--batches", type=_positive, default=200)
    alignment = commands.add_parser("alignment")
    alignment.add_argument("--fraction", type=float, default=0.1, help="of CMU-MOSEI's videos")
    alignment.add_argument("--directory", help="for the generated files, up to 6 GB")
    population = commands.add_parser("population")
    population.add_argument("--config", default="configs/attention.py:quick")
    population.add_argument("--seeds", type=_positive, default=10)
    population.add_argument("--repeats", type=_positive, default=2)
    train = commands.add_parser("train")
    train.add_argument("--config", nargs="+", default=["configs/attention.py"])
    train.add_argument(
        "--sizes", nargs="+", type=_size, default=[None], help="of encoders: WIDTHxLAYERS"
    )
    train.add_argument("--batch_size", type=_positive, help="instead of the configs'")
    train.add_argument("--seeds", type=_positive, default=8, help="trained at once, beside one")
    train.add_argument("--against", choices=["torch"], help="measure it beside")
    train.add_argument("--device", default="cpu", help="that PyTorch takes")
    train.add_argument("--labels", help="CSV file of segments (start, end) for their lengths")
    train.add_argument("--batches", type=_positive, default=60)
    train.add_argument("--repeats", type=_positive, default=5)
    cost = commands.add_parser("cost")
    cost.add_argument("--config", default="configs/attention.py")
    cost.add_argument("--repeats", type=_positive, default=5)
    startup = commands.add_parser("startup")
    startup.add_argument("--config", default="configs/attention.py:quick")
    startup.add_argument("--repeats", type=_positive, default=5)
    for command in commands.choices.values():
        command.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    try:
        found = _measure(args)
    except UserError as error:
        sys.exit(f"error: {error}")
    from msa_jax.report import table

    print("\n".join(table.figures(found)))
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
    if args.what == "train":
        return _measure_training(args)
    if args.what == "cost":
        from msa_jax.benchmarks import cost

        return cost.measure(_load(args.config), args.repeats)
    if args.what == "startup":
        from msa_jax.benchmarks import startup

        return startup.measure(args.config, args.repeats)
    from msa_jax.benchmarks import input as input_benchmark

    config = _load(args.config)
    config.data.update(dir=args.data_dir, size=args.size)
    if args.what == "stream":
        return input_benchmark.measure_stream(config)
    return input_benchmark.measure(config, batches=args.batches)


def _measure_training(args: argparse.Namespace) -> dict[str, Any]:
    from msa_jax.benchmarks import train

    found: dict[str, Any] = {}
    for name in args.config:
        for size in args.sizes:
            config = _load(name)
            if size:
                width, layers = size
                config.model.encoder.update(width=width, hidden=2 * width, num_layers=layers)
            config.training.batch_size = args.batch_size or config.training.batch_size
            lengths = train.mosei_lengths(
                Path(args.labels) if args.labels else None,
                args.batches * config.training.batch_size,
                config.data.max_length,
            )
            alone = train.Contender(config=config, lengths=lengths, batches=args.batches)
            contenders = {"one seed": alone}
            if args.seeds > 1:
                contenders[f"{args.seeds} seeds"] = replace(alone, seeds=args.seeds)
            if args.against:
                twin = replace(alone, framework="torch", device=args.device)
                contenders |= {
                    "padded": replace(alone, padded=True),
                    "torch": twin,
                    "torch.compile": replace(twin, compiled=True),
                }
            key = f"{name} {width}x{layers}" if size else name
            found[key] = train.measure(contenders, args.repeats)
            if len(contenders) > 1:
                base = args.against or "one seed"
                found[key]["ratios"] = train.ratios(found[key], base)
    return found


def _positive(text: str) -> int:
    """A number of things; a ValueError becomes argparse's line."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _size(text: str) -> tuple[int, int]:
    """Width and layers of `64x2`; a ValueError becomes argparse's line."""
    width, layers = map(int, text.split("x"))
    return width, layers


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
