"""Trains and evaluates a system.

  python -m msa_jax.main --config=configs/attention.py --workdir=DIR [--config.FIELD=VALUE ...]

The same command on the same DIR goes on where it stopped, or reports that it is finished.
"""

import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from msa_jax.errors import UserError

_CONFIG: Any = config_flags.DEFINE_config_file(
    "config", None, "Configuration, for example configs/attention.py"
)
_WORKDIR: Any = flags.DEFINE_string("workdir", None, "Directory for the run's files; gs:// works.")


def main(argv: Sequence[str]) -> None:
    """Parses nothing but flags: everything else is `train_and_evaluate`."""
    if len(argv) > 1:
        raise app.UsageError(f"what is {argv[1]!r}? Flags are written --name=value.")
    # JAX, Flax and TensorFlow take seconds to import: --help and a mistyped flag need none of them.
    from msa_jax import train

    logging.set_verbosity(logging.WARNING)  # a library among them turns on everything
    try:
        train.train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    except (UserError, train.DivergedError) as error:
        sys.exit(f"error: {error}")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; a wrong one ends with one line, not a traceback."""
    try:
        rest: list[str] = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _ = _CONFIG.value.to_dict  # a file that could not be loaded says so when it is used
    except AttributeError as error:  # how ml_collections refuses an unknown field
        message = str(error).replace("\\n", " ").replace("\\'", "'").strip("'")
        sys.exit(f"error: a --config flag names an unknown field: {message}")
    except (OSError, flags.Error) as error:  # a config file that is not there, or refuses
        sys.exit(f"error: {_gist(str(error))}")
    return rest


def _gist(message: str) -> str:
    """Of a message with a traceback in it, the last line, which tells what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1]


def run() -> None:
    """The command line."""
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    run()
