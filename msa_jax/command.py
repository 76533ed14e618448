"""What the command lines share that take a config: flags, refusals in one line, exit codes."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from msa_jax.errors import DivergedError, PreemptedError, UserError

_CONFIG = "config"
WORKDIR: Any = flags.DEFINE_string("workdir", None, "Directory for the run's files; gs:// works.")


def find_configs() -> None:
    """Makes `configs` importable when a script is run by its path: it lies beside the package."""
    root = str(Path(__file__).parents[1])
    if root not in sys.path:
        sys.path.insert(0, root)


def define_config(default: Any = None) -> Any:
    """The flag --config of a file or, given a `ConfigDict`, flags for its fields alone.

    Returns:
      The flag's holder, whose `value` is the config.
    """
    find_configs()
    if default is not None:
        return config_flags.DEFINE_config_dict(_CONFIG, default)
    return config_flags.DEFINE_config_file(
        _CONFIG, None, "Configuration, for example configs/attention.py"
    )


def overrides() -> dict[str, Any]:
    """`{dotted name: value}` of the fields that flags have set."""
    values: dict[str, Any] = config_flags.get_override_values(flags.FLAGS[_CONFIG])
    return values


def run(work: Callable[[], Any], required: Sequence[str] = ("config", "workdir")) -> None:
    """Parses the flags, then does `work`; what a person can mend ends with one line.

    The status is 0, 1 after an error, or 75 of a run that was preempted: the same command goes on.
    """

    def main(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"what is {argv[1]!r}? Flags are written --name=value.")
        logging.set_verbosity(logging.WARNING)  # a library among them turns on everything
        try:
            work()
        except (UserError, DivergedError) as error:
            sys.exit(f"error: {error}")
        except PreemptedError as error:
            print(error, file=sys.stderr, flush=True)
            sys.exit(os.EX_TEMPFAIL)

    keep_programs()
    flags.mark_flags_as_required(list(required))
    app.run(main, flags_parser=_parse)


def keep_programs() -> None:
    """Lets JAX keep what it compiles, for the next run of the same shapes.

    Call it before JAX is imported.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(caches, "msa_jax", "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; a wrong one ends with one line, not a traceback."""
    try:
        rest: list[str] = flags.FLAGS(argv)
        config = flags.FLAGS[_CONFIG].value
        if config is not None:
            _ = config.to_dict  # a file that could not be loaded says so when it is used
    except (AttributeError, KeyError) as error:  # how ml_collections refuses an unknown field
        message = str(error).replace("\\n", " ").replace("\\'", "'").strip("'")
        sys.exit(f"error: a --config flag names an unknown field: {message}")
    except (OSError, flags.Error) as error:  # a config file that is not there, or refuses
        sys.exit(f"error: {_gist(str(error))}")
    return rest


def _gist(message: str) -> str:
    """Of a message with a traceback in it, the last line, which tells what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1]
