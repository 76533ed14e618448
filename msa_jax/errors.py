"""The errors that a person can act on, and the search for the name they meant."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something given from outside is wrong: a file, a field, a flag.

    Its message says what was found and where, what was expected and what to do. Command lines
    print it alone, without a traceback.
    """


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


class PreemptedError(RuntimeError):
    """The run was told to end, and is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"preempted at step {step}: saved; the same command goes on")


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that point from an unknown name to the known ones, for the end of a message."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
