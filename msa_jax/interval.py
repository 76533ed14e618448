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
      loops: how many steps each took, and their metrics `{name: [n] or [S, n] float32}`, of
        which the first so many count.
      seconds: of the run's training so far; counted when a checkpoint is saved.
    """

    loops: Sequence[tuple[int, Mapping[str, Any]]] = ()
    seconds: float = 0.0

    def __len__(self) -> int:
        """How many steps."""
        return sum(count for count, _ in self.loops)

    def averages(self, population: Population) -> list[dict[str, float]]:
        """Each member's metrics, averaged over the steps."""
        members = zip(*map(population.unstack, self._steps()), strict=True)
        return [
            {name: float(np.mean([step[name] for step in each])) for name in each[0]}
            for each in members
        ]

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint: every bit of it."""
        values = [{name: x.tolist() for name, x in step.items()} for step in self._steps()]
        return {"metrics": values, "seconds": self.seconds}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Interval":
        """The inverse of `to_json`."""
        loops = [
            (1, {name: np.asarray(x, np.float32)[..., None] for name, x in step.items()})
            for step in saved["metrics"]
        ]
        return cls(loops=loops, seconds=saved["seconds"])

    def _steps(self) -> list[dict[str, np.ndarray]]:
        """`{name: [] or [S]}` of each step."""
        fetched = processes.fetch([metrics for _, metrics in self.loops])
        return [
            {name: values[..., at] for name, values in metrics.items()}
            for (count, _), metrics in zip(self.loops, fetched, strict=True)
            for at in range(count)
        ]
