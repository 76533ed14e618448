"""The training steps since the last evaluation, and what a checkpoint among them says of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msa_jax import processes
from msa_jax.population import Population


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """Steps that no evaluation has followed yet.

    Attributes:
      metrics: `{name: [] or [S] float32}` of each step.
      seconds: of the run's training so far; counted when a checkpoint is saved.
    """

    metrics: Sequence[Mapping[str, Any]] = ()
    seconds: float = 0.0

    def averages(self, population: Population) -> list[dict[str, float]]:
        """Each member's metrics, averaged over the steps."""
        members = zip(*map(population.unstack, processes.fetch(self.metrics)), strict=True)
        return [
            {name: float(np.mean([step[name] for step in each])) for name in each[0]}
            for each in members
        ]

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint: every bit of it."""
        metrics = processes.fetch(self.metrics)
        values = [{name: value.tolist() for name, value in step.items()} for step in metrics]
        return {"metrics": values, "seconds": self.seconds}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Interval":
        """The inverse of `to_json`."""
        metrics: list[Mapping[str, Any]] = [
            {name: np.asarray(value, np.float32) for name, value in step.items()}
            for step in saved["metrics"]
        ]
        return cls(metrics=metrics, seconds=saved["seconds"])
