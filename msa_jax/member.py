"""One run of a population: how far it has come, and what it leaves behind."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msa_jax import config as config_lib
from msa_jax import evaluate, metrics, processes
from msa_jax.checkpoints import Checkpoints
from msa_jax.config import Config
from msa_jax.data import pipeline
from msa_jax.errors import UserError
from msa_jax.report import curves
from msa_jax.workdir import Workdir


@dataclasses.dataclass
class Member:
    """One run of the population, and how far it has come.

    Attributes:
      config: its own.
      run: its directory.
      history: a line an evaluation.
      selected: the step and the validation metrics of what was best so far; None at first.
      diverged: the step at which its loss was no longer finite. As of a lone run that diverges,
        there will be no results.
      evaluations: of the selected parameters, by split; once training is over.
      results: what its `results.json` holds; None before the end, or if it diverged.
    """

    config: Config
    run: Workdir
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    selected: dict[str, Any] | None = None
    diverged: int | None = None
    evaluations: dict[str, evaluate.Evaluation] = dataclasses.field(default_factory=dict)
    results: dict[str, Any] | None = None
    _events: Any = dataclasses.field(default=None, repr=False)

    def show(self, entry: Mapping[str, float]) -> None:
        """Adds an evaluation to TensorBoard's events; of several processes, the first does."""
        if not processes.is_first():
            return
        if self._events is None:  # not before there is something to show: TensorFlow takes seconds
            pipeline.tensorflow()
            from clu import metric_writers

            self._events = metric_writers.SummaryWriter(str(self.run.path))
        values = {name: value for name, value in entry.items() if name != "step"}
        self._events.write_scalars(int(entry["step"]), values)
        self._events.flush()

    def close(self) -> None:
        """Ends the events."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def record(self, entry: dict[str, Any]) -> bool:
        """Takes an evaluation; returns whether it is the best so far, of equals the earliest."""
        valid = {
            name.removeprefix("valid_"): value
            for name, value in entry.items()
            if name.startswith("valid_")
        }
        name = self.config.training.selection
        if not math.isfinite(entry["train_loss"]) or not math.isfinite(valid["loss"]):
            self.diverged = entry["step"]
            return False
        self.history.append(entry)
        best = self.selected
        if best and not metrics.is_better(name, valid[name], best["metrics"][name]):
            return False
        self.selected = {"step": entry["step"], "metrics": valid}
        return True

    def is_done(self, step: int, interval: int) -> bool:
        """Whether it diverged, or its last `patience` evaluations brought nothing."""
        if self.diverged is not None:
            return True
        patience = self.config.training.patience
        since = step - self.selected["step"] if self.selected else 0
        return bool(patience) and since >= patience * interval

    def finish(
        self, evaluations: Mapping[str, evaluate.Evaluation], shared: Mapping[str, Any]
    ) -> None:
        """Writes what a person opens, but for `results.json`, which marks the end.

        Args:
          evaluations: of the selected parameters, by split.
          shared: what the results say of all members: the dataset and the count of parameters.
        """
        assert self.selected is not None
        task = next(iter(evaluations.values())).task
        self.evaluations = dict(evaluations)
        self.results = {
            **shared,
            "task": {
                "kind": task.kind,
                "neutral": task.neutral,
                "classes": list(task.class_names),
            },
            "model": self.config.model["name"],
            "modalities": list(self.config.data.modalities),
            "context": config_lib.context(self.config),
            "selection": f"valid {self.config.training.selection}",
            "seed": self.config.seed,
            "step": self.selected["step"],
            "seconds": self.history[-1]["seconds"] if self.history else math.nan,
            "examples_per_second": float(
                np.median([entry["examples_per_second"] for entry in self.history] or [math.nan])
            ),
            "splits": {split: each.report() for split, each in evaluations.items()},
        }
        for split, evaluation in evaluations.items():
            self.run.write_predictions(split, evaluation.table().to_csv(task))
        self.run.write_curves(curves.png(self.history, task))

    def write_alone(self, params: Any, described: Mapping[str, Any]) -> None:
        """Leaves the directory of a member of several as that of a finished lone run."""
        if self.run.results():
            return  # written before an interruption
        assert self.selected is not None
        assert self.results is not None
        self.run.remove_checkpoints()
        with Checkpoints(self.run.checkpoints) as checkpoints:
            checkpoints.save(
                self.selected["step"],
                {"selected": params},
                description(self.config, {"": self}, described),
            )
        self.run.write_results(self.results)

    def progress(self) -> dict[str, Any]:
        """What a checkpoint remembers of it."""
        return {"selected": self.selected, "diverged": self.diverged}


def named(trained: Mapping[str, float], evaluation: evaluate.Evaluation) -> dict[str, float]:
    """The metrics of training and validation, as a line of the history names them."""
    return {
        **{f"train_{name}": value for name, value in trained.items()},
        **{f"valid_{name}": value for name, value in evaluation.metrics().items()},
    }


def description(
    config: Config, members: Mapping[str, Member], described: Mapping[str, Any]
) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Args:
      config: of all members.
      members: by name of their directory below the checkpoint's run, "" for that one itself.
      described: the data's part.
    """
    progress = [{"name": name, **member.progress()} for name, member in members.items()]
    return {
        "config": config_lib.to_dict(config),
        **described,
        "selection": {"members": progress},
    }


def restore_progress(
    run: Workdir, members: Mapping[str, Member], progress: Sequence[Mapping[str, Any]]
) -> None:
    """Gives `members`, by name, the `progress` that a checkpoint of `run` remembers.

    Raises:
      UserError: if it is a checkpoint of others.
    """
    before, now = [str(each.get("name", "?")) for each in progress], list(members)
    unnamed = len(before) == len(now) and "?" in before  # by an earlier version
    if before != now and not unnamed:
        raise UserError(
            f"{run.path} holds unfinished training of {_told(before)}, this would be of "
            f"{_told(now)}. Give the same to go on with it, or another --workdir."
        )
    for member, each in zip(members.values(), progress, strict=True):
        member.selected, member.diverged = each["selected"], each["diverged"]


def _told(names: Sequence[str]) -> str:
    """A population in words."""
    if list(names) == [""]:
        return "a lone run"
    return ", ".join(names if len(names) <= 4 else [*names[:2], "...", names[-1]])


def brief(members: Sequence[Member], metric: str) -> dict[str, str]:
    """What a progress bar tells of the last evaluation: means over the members."""
    last = [member.history[-1] for member in members if member.history]
    loss = np.mean([entry["train_loss"] for entry in last])
    valid = np.mean([entry[f"valid_{metric}"] for entry in last])
    return {"loss": f"{loss:.3f}", "valid": f"{valid:.3f} {metric}"}
