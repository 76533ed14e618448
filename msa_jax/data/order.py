"""Which utterances make a batch: pure functions of (seed, step), the same for any number of
processes, with no state to save and none to restore.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from msa_jax.data.buckets import Buckets
from msa_jax.data.units import Units


@dataclasses.dataclass(frozen=True)
class Selection:
    """The rows of a batch.

    Attributes:
      rows: [B] int64 in [0, N), or -1 where a batch is filled up; [S, B] for S seeds. Of V videos,
        B is V * U: video by video, each filled up to the U utterances of the bucket.
      bucket: says what the batch is padded to.
    """

    rows: np.ndarray
    bucket: int


Order = Callable[[int], Selection]

_FILLER = -1
_EVERY_SEED = 2**64 - 1  # no run's seed


class _Grouped:
    """Units by bucket, and the rows of those that make a batch.

    Attributes:
      sizes: of each bucket, the rows of a batch.
    """

    def __init__(self, units: Units, buckets: Buckets, batch_size: int) -> None:
        self._widths = buckets.utterances
        missing = max(0, self._widths[-1] - units.rows.shape[1])
        self._rows = np.pad(units.rows, ((0, 0), (0, missing)), constant_values=_FILLER)
        self._buckets = buckets.assign(units)
        self._batch_size = batch_size
        self.sizes = [batch_size * width for width in self._widths]

    def _selection(self, chosen: np.ndarray) -> Selection:
        """The batch of `chosen` [batch_size] units, of which negative ones fill it up."""
        bucket = int(self._buckets[chosen[chosen >= 0]].max())
        rows = self._rows[chosen, : self._widths[bucket]]
        return Selection(np.where(chosen[:, None] >= 0, rows, _FILLER).reshape(-1), bucket)


class TrainOrder(_Grouped):
    """The batches of training, by step.

    An epoch visits every unit once, in batches of like length: units are shuffled, sorted by bucket
    (so that within a bucket they stay shuffled), cut into batches, and the batches shuffled. One
    batch of an epoch, drawn at random, may be smaller: it is filled up. A batch at a border between
    buckets takes the longer.

    Which units meet in a batch hangs on the seed; which bucket comes when does not, so that seeds
    can be trained side by side in batches of one shape.
    """

    def __init__(self, units: Units, buckets: Buckets, batch_size: int, seed: int) -> None:
        """Takes what is drawn, the buckets that hold it, and the units a batch."""
        super().__init__(units, buckets, batch_size)
        self._seed = seed
        self.steps_per_epoch = -(-len(units) // batch_size)
        self._epoch = functools.lru_cache(maxsize=2)(self._draw)

    def __call__(self, step: int) -> Selection:
        """The batch of a step, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._selection(self._epoch(epoch)[position])

    def _draw(self, epoch: int) -> np.ndarray:
        """Units [S, batch_size] of an epoch."""
        own, common = _generator(self._seed, epoch), _generator(_EVERY_SEED, epoch)
        shuffled = own.permutation(len(self._buckets))
        ordered = shuffled[np.argsort(self._buckets[shuffled], kind="stable")]
        last = len(ordered) % self._batch_size
        if last:
            # At the end, the few rows with the most say would always be of the longest.
            place = common.integers(self.steps_per_epoch) * self._batch_size + last
            ordered = np.insert(ordered, place, [_FILLER] * (self._batch_size - last))
        return common.permutation(ordered.reshape(-1, self._batch_size))


class SideBySide:
    """The batches of several `TrainOrder`s that differ in their seed alone, as one.

    Attributes:
      sizes: of each bucket, the rows of a seed's batch.
    """

    def __init__(self, orders: Sequence[TrainOrder]) -> None:
        """Takes an order a seed."""
        self._orders = orders
        self.sizes = orders[0].sizes

    def __call__(self, step: int) -> Selection:
        """The batches of a step: rows [S, B]."""
        selections = [order(step) for order in self._orders]
        return Selection(np.stack([s.rows for s in selections]), selections[0].bucket)


class EvalOrder(_Grouped):
    """Every unit once, in batches of like length; the last is filled up."""

    def __init__(self, units: Units, buckets: Buckets, batch_size: int) -> None:
        """Takes what is judged, the buckets that hold it, and the units a batch."""
        super().__init__(units, buckets, batch_size)
        ordered = np.argsort(self._buckets, kind="stable")
        filled = np.pad(ordered, (0, -len(ordered) % batch_size), constant_values=_FILLER)
        self._plan = filled.reshape(-1, batch_size)

    def __call__(self, index: int) -> Selection:
        """The batch at `index`."""
        return self._selection(self._plan[index])

    def __len__(self) -> int:
        return len(self._plan)

    @property
    def rows(self) -> np.ndarray:
        """The rows of all batches, one after another; -1 where they are filled up."""
        return np.concatenate([self(index).rows for index in range(len(self))])


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
