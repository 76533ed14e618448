"""Training some steps at a time: one by one as batches arrive, or many in a program of their own.

A stretch of steps is what the host asks for at once. Of frames that live on the devices, it is one
program, which gathers its batches itself; of frames that are streamed, it is one step.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from msa_jax import steps
from msa_jax.data import feed
from msa_jax.data.order import Order
from msa_jax.population import Population
from msa_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class Stretches:
    """How a run takes its steps, in their order.

    Attributes:
      most: steps that one call may take.
      take: (state, first, last) to the state after steps `first` to `last` - 1, counted over the
        run, and their metrics `{name: [n]}`, or `[S, n]`, the first `last - first` of n. The state
        given is donated. To be called in the order of the steps.
    """

    most: int
    take: Callable[[TrainState, int, int], tuple[TrainState, steps.StepMetrics]]

    def between(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The stretches that lead from step `first` to `last`."""
        for start in range(first, last, self.most):
            yield start, min(start + self.most, last)


def build(
    make: Callable[[Mapping[str, jax.Array]], steps.TrainStep],
    state: TrainState,
    values: Mapping[str, jax.Array],
    population: Population,
    source: feed.Feed,
    order: Order,
    *,
    first: int,
    last: int,
    batch_size: int,
    most: int,
) -> Stretches:
    """The way that fits the feed.

    Args:
      make, state, values, population: see `steps.jit_train_step`.
      source: of the train split.
      order: of the batches.
      first: step that comes next.
      last: step at which the run ends.
      batch_size: units a batch.
      most: steps a call, where the frames are resident.
    """
    if not isinstance(source, feed.Resident):
        step = steps.jit_train_step(make, state, values, population)
        batches = source(order, first, last)
        return Stretches(1, lambda state, first, last: step(state, next(batches)))
    resident, rows_of = source, [batch_size * width for width in source.widths]

    def cut(gather: steps.Gather, count: int) -> steps.Gather:
        return lambda held, rows: gather(held, rows[..., :count])

    gathers = list(map(cut, resident.gathers, rows_of))
    loop = steps.jit_train_loop(make, state, values, population, gathers)

    def take(state: TrainState, first: int, last: int) -> tuple[TrainState, steps.StepMetrics]:
        selections = [order(step) for step in range(first, last)]
        seeds = selections[0].rows.shape[:-1]
        rows = np.zeros((most, *seeds, max(rows_of)), np.int32)
        buckets = np.zeros(most, np.int32)
        for at, selection in enumerate(selections):
            rows[at, ..., : selection.rows.shape[-1]] = selection.rows
            buckets[at] = selection.bucket
        return loop(state, resident.held, rows, buckets, len(selections))

    return Stretches(most, take)
