"""The files of a run's directory. Every write is atomic: a reader sees the old file or the new."""

import json
import math
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from msa_jax import config as config_lib
from msa_jax.errors import UserError


class Workdir:
    """A run's directory, local or in a bucket (`gs://`).

    It holds `config.json`, `metrics.jsonl` (a line an evaluation), `results.json`, `curves.png`,
    `predictions_<split>.csv`, `checkpoints/` and TensorBoard's events; that of several seeds a
    directory of each.
    """

    def __init__(self, path: str, *, writes: bool = True) -> None:
        """Opens the directory; nothing is created yet.

        Args:
          path: of the directory.
          writes: whether this process writes its files: of several, the first one does.
        """
        if not path:
            raise UserError("--workdir is empty: name a directory for the run's files.")
        self.path = epath.Path(config_lib.absolute(path))
        self._writes = writes
        self.checkpoints = self.path / "checkpoints"
        self._config = self.path / "config.json"
        self._history = self.path / "metrics.jsonl"

    def member(self, name: str) -> "Workdir":
        """The directory of a run that is trained together with others; "" is this one."""
        return Workdir(str(self.path / name), writes=self._writes)

    def seeds(self) -> list[str]:
        """Names of the members of a directory of several seeds; empty for a lone run's."""
        if not self.path.exists():
            return []
        names = [each.name for each in self.path.iterdir() if re.fullmatch(r"seed_\d+", each.name)]
        return sorted(names, key=lambda name: int(name.removeprefix("seed_")))

    def record(self, config: config_lib.Config) -> None:
        """Makes the directory that of a run of `config`, once nothing can be refused any more."""
        if not self._config.exists():
            self._write(self._config.name, _json(config_lib.to_dict(config)))

    def check(self, config: config_lib.Config, recorded: Mapping[str, Any] | None = None) -> None:
        """Checks that the directory is fresh, or holds a run of `config`.

        Args:
          config: of the run to come.
          recorded: what a checkpoint says of the run that lives here; None asks `config.json`.

        Raises:
          UserError: if another run lives here; the message names the fields that differ.
        """
        if recorded is None:
            if not self._config.exists():
                return
            recorded = _read_json(self._config)
        differing = config_lib.differences(config_lib.resolve(recorded), config)
        if differing:
            lines = "\n  ".join(differing)
            raise UserError(
                f"{self.path} holds a run with another config:\n  {lines}\n"
                "Give the same config to go on with it, or another --workdir."
            )

    def results(self) -> dict[str, Any] | None:
        """The finished run's results; None while it is not finished."""
        file = self.path / "results.json"
        return _read_json(file) if file.exists() else None

    def write_results(self, results: dict[str, Any]) -> dict[str, Any]:
        """Marks the run as finished; returns the results as `results` will read them."""
        self._write("results.json", _json(results))
        plain: dict[str, Any] = _plain(results)
        return plain

    def write_predictions(self, split: str, rows: str) -> None:
        """Writes the CSV of what is predicted for each utterance of a split."""
        self._write(f"predictions_{split}.csv", rows)

    def write_curves(self, png: bytes) -> None:
        """Writes the picture of the learning curves."""
        self._write("curves.png", png)

    def remove_checkpoints(self) -> None:
        """Removes all checkpoints."""
        if self._writes:
            self.checkpoints.rmtree(missing_ok=True)

    def history(self, last_step: int) -> list[dict[str, Any]]:
        """The evaluations up to `last_step`; those after it were lost and will be made again.

        NaN and infinities, which JSON lacks, come back as NaN.

        Raises:
          UserError: if the file was damaged.
        """
        if not self._history.exists():
            return []
        try:
            lines = [json.loads(line) for line in self._history.read_text().splitlines()]
            return [_numbers(line) for line in lines if line["step"] <= last_step]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self._history} is damaged: {error}. "
                "Remove it to go on without the curves so far."
            ) from error

    def write_history(self, lines: list[dict[str, Any]]) -> None:
        """Writes all evaluations so far."""
        content = "".join(json.dumps(_plain(line)) + "\n" for line in lines)
        self._write(self._history.name, content)

    def _write(self, name: str, content: str | bytes) -> None:
        if self._writes:
            write_bytes(self.path / name, content.encode() if isinstance(content, str) else content)


def names(workdirs: Sequence[str]) -> dict[str, str]:
    """`{name: workdir}`: what tells each directory from the others, at the end of its path.

    Raises:
      UserError: if a directory is named twice.
    """
    paths = [epath.Path(config_lib.absolute(workdir)) for workdir in workdirs]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path} is given twice: name each --workdir once.")
    found = {}
    for path, workdir in zip(paths, workdirs, strict=True):
        parts = 1
        while sum(other.parts[-parts:] == path.parts[-parts:] for other in paths) > 1:
            parts += 1
        found["/".join(path.parts[-parts:])] = workdir
    return found


def runs(workdir: str) -> list[str]:
    """The directories of the runs that `workdir` stands for: of its finished seeds, or of itself.

    Raises:
      UserError: if no seed is finished.
    """
    run = Workdir(workdir)
    finished = [seed for seed in run.seeds() if run.member(seed).results() is not None]
    if run.seeds() and not finished:
        raise UserError(f"{workdir}: no seed is finished. Go on with its training command first.")
    return [os.path.join(workdir, seed) for seed in finished] or [workdir]


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON; NaN and infinities, which JSON lacks, become null."""
    write_text(path, _json(value))


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes `text` to `path` at once or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Writes `content` to `path` at once or not at all; creates the directory."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def _read_json(path: epath.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON: {error}. Restore it or use another --workdir."
        ) from error


def _numbers(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the history with NaN for null."""
    return {name: math.nan if value is None else value for name, value in line.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
