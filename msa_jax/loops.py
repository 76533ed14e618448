"""Training in loops of steps: what the host asks for at once.

Of frames that live on the devices, a loop is many steps in one program, which gathers its batches
itself; of frames that are streamed, it is one step.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from msa_jax import steps
from msa_jax.data import feed
from msa_jax.data.order import SideBySide, TrainOrder
from msa_jax.population import Population
from msa_jax.state import TrainState

# What may be under way before the host waits: so many steps, and of long loops so many.
_STEPS_AHEAD = 16
_LOOPS_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Loops:
    """How a run takes its steps, in their order.

    Attributes:
      most: steps that one loop may take.
      take: (state, first, last) to the state after steps `first` to `last` - 1, counted over the
        run, and their metrics `{name: [n]}`, or `[S, n]`, the first `last - first` of n. The state
        given is donated. To be called in the order of the steps.
    """

    most: int
    take: Callable[[TrainState, int, int], tuple[TrainState, steps.StepMetrics]]

    def between(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The loops that lead from step `first` to `last`."""
        for start in range(first, last, self.most):
            yield start, min(start + self.most, last)

    def wait(self, taken: Sequence[Any]) -> None:
        """Waits until few of the loops `taken`, whose metrics these are, are still under way.

        An accelerator computes while the host asks for more: without a bound, what is to happen
        before the next loop, such as a stop, would happen after all of them.
        """
        ahead = max(_LOOPS_AHEAD, _STEPS_AHEAD // self.most)
        if len(taken) >= ahead:
            jax.block_until_ready(taken[-ahead])


def build(
    make: Callable[[Mapping[str, jax.Array]], steps.TrainStep],
    state: TrainState,
    values: Mapping[str, jax.Array],
    population: Population,
    source: feed.Feed,
    order: TrainOrder | SideBySide,
    *,
    first: int,
    last: int,
    most: int,
) -> Loops:
    """The way that fits the feed.

    Args:
      make, state, values, population: see `steps.jit_train_step`.
      source: of the train split.
      order: of its batches.
      first: step that comes next.
      last: step at which the run ends.
      most: steps a loop, where the frames are resident.
    """
    if not isinstance(source, feed.Resident):
        step = steps.jit_train_step(make, state, values, population)
        batches = source(order, first, last)
        return Loops(1, lambda state, first, last: step(state, next(batches)))
    held = source.held

    def cut(gather: steps.Gather, count: int) -> steps.Gather:
        return lambda held, rows: gather(held, rows[..., :count])

    gathers = [cut(*each) for each in zip(source.gathers, order.sizes, strict=True)]
    loop = steps.jit_train_loop(make, state, values, population, gathers)

    def take(state: TrainState, first: int, last: int) -> tuple[TrainState, steps.StepMetrics]:
        selections = [order(step) for step in range(first, last)]
        seeds = selections[0].rows.shape[:-1]
        rows = np.zeros((most, *seeds, max(order.sizes)), np.int32)
        buckets = np.zeros(most, np.int32)
        for at, selection in enumerate(selections):
            rows[at, ..., : selection.rows.shape[-1]] = selection.rows
            buckets[at] = selection.bucket
        return loop(state, held, rows, buckets, len(selections))

    return Loops(most, take)
