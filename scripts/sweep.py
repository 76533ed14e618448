"""Tries learning rates, weight decays and dropouts in one program, ranked on validation alone.

python scripts/sweep.py --config=configs/attention.py:quick --workdir=DIR \\
  --grid=optimizer.learning_rate=1e-3,3e-3 --grid=model.encoder.dropout=0.1,0.3
python scripts/sweep.py --config=configs/attention.py:quick --workdir=DIR --trials=8 \\
  --random=optimizer.learning_rate=1e-4..1e-2 --random=model.encoder.dropout=0..0.5
"""

from collections.abc import Sequence

from absl import flags

from msa_jax import command
from msa_jax.errors import UserError

_CONFIG = command.define_config()
_GRID = flags.DEFINE_multi_string("grid", [], "FIELD=VALUE,VALUE,...; all combinations are tried.")
_RANDOM = flags.DEFINE_multi_string("random", [], "FIELD=LEAST..GREATEST; values are drawn.")
_TRIALS = flags.DEFINE_integer("trials", 8, "Draws of --random.", lower_bound=1)
_DRAW_SEED = flags.DEFINE_integer("draw_seed", 0, "Of the draws.", lower_bound=0)


def main() -> None:
    """Sweeps, prints the ranking and leaves it in sweep.md beside results.json."""
    if bool(_GRID.value) == bool(_RANDOM.value):
        raise UserError("give --grid or --random, one of them, as often as there are fields.")
    separator = "," if _GRID.value else ".."
    fields = dict(_field(text, separator) for text in _GRID.value or _RANDOM.value)

    from msa_jax import (
        cpu,
        processes,
        sweep,
        workdir,
    )  # JAX: not for --help or a mistyped flag

    if _GRID.value:
        trials = sweep.grid(fields)
    else:
        ranges = {name: (values[0], values[-1]) for name, values in fields.items()}
        trials = sweep.draw(ranges, _TRIALS.value, _DRAW_SEED.value)
    cpu.prepare(len(trials) * _CONFIG.value.num_seeds)
    processes.check_alone()
    results = sweep.sweep(_CONFIG.value, command.WORKDIR.value, trials)
    table = sweep.table(results)
    workdir.write_text(f"{command.WORKDIR.value}/sweep.md", table)
    print(table, end="")


def _field(text: str, separator: str) -> tuple[str, Sequence[float]]:
    name, _, values = text.partition("=")
    try:
        numbers = [float(value) for value in values.split(separator)]
    except ValueError as error:
        raise UserError(f"{text}: expected FIELD=NUMBER{separator}NUMBER.") from error
    if separator == ".." and len(numbers) != 2:
        raise UserError(f"{text}: expected FIELD=LEAST..GREATEST.")
    return name.removeprefix("config."), numbers


if __name__ == "__main__":
    command.run(main)
