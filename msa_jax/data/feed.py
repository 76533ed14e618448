"""From a split to sharded batches on the devices; the only file of `data` that knows JAX.

Both feeds yield the same batches, bit for bit: `stream` moves each batch's frames, `resident` moves
all frames once, and then only row numbers. Where an order has rows for several seeds, batches have
a leading axis [S].
"""

import collections
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from msa_jax.data import pipeline
from msa_jax.data.buckets import Buckets
from msa_jax.data.order import Order
from msa_jax.data.schema import mask_key
from msa_jax.data.store import Split
from msa_jax.tasks import Task

Batch = dict[str, jax.Array]
# Of an order's batches `first` to `last` - 1.
Feed = Callable[[Order, int, int], Iterator[Batch]]

_RESIDENT_BYTES = 2 << 30  # of a split
_AHEAD = 2


def build(split: Split, task: Task, buckets: Buckets, sharding: NamedSharding, *, how: str) -> Feed:
    """The feed that `config.data.feed` names: auto is resident where a split fits in 2 GiB."""
    if how == "auto":
        how = "resident" if split.size <= _RESIDENT_BYTES else "stream"
    feeds: dict[str, Callable[..., Feed]] = {"stream": stream, "resident": Resident}
    return feeds[how](split, task, buckets, sharding)


def stream(split: Split, task: Task, buckets: Buckets, sharding: NamedSharding) -> Feed:
    """Reads, pads and moves batches ahead of their use, in bounded memory."""

    def put(batch: Mapping[str, np.ndarray]) -> Batch:
        return {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in batch.items()
        }

    def feed(order: Order, first: int, last: int) -> Iterator[Batch]:
        batches = pipeline.batches(
            split,
            task,
            order,
            buckets,
            first=first,
            last=last,
            share=functools.partial(own_rows, sharding),
        )
        return _ahead(map(put, batches))

    return feed


class Resident:
    """Keeps the split on every device of the mesh and gathers batches there: a feed.

    Attributes:
      held: what batches are gathered from, on every device.
      gathers: of each bucket, a pure function from `held` and the rows [..., B] of a batch to the
        batch, for programs of their own.
    """

    def __init__(self, split: Split, task: Task, buckets: Buckets, sharding: NamedSharding) -> None:
        """Moves the split; batches will lie as `sharding` says."""
        everywhere = NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
        labels = task.labels(split.scores)
        held: dict[str, Any] = {
            "columns": {"score": split.scores, "label": labels},
            "frames": {m: _all_frames(split, m) for m in split.sequences},
            "lengths": {m: s.lengths.astype(np.int32) for m, s in split.sequences.items()},
            "starts": {
                m: (np.cumsum(s.lengths) - s.lengths).astype(np.int32)
                for m, s in split.sequences.items()
            },
        }
        # Not `device_put`, by which several processes would send one another all of it, to compare.
        self.held = jax.tree.map(
            lambda x: jax.make_array_from_callback(x.shape, everywhere, lambda index: x[index]),
            held,
        )
        utterances = buckets.utterances if buckets.of_videos else (0,) * len(buckets.lengths)
        self.gathers = [
            functools.partial(_gather, lengths=tuple(sorted(lengths.items())), utterances=count)
            for lengths, count in zip(buckets.lengths, utterances, strict=True)
        ]
        self._jitted = [jax.jit(gather, out_shardings=sharding) for gather in self.gathers]

    def __call__(self, order: Order, first: int, last: int) -> Iterator[Batch]:
        """The order's batches `first` to `last` - 1."""

        def batch(index: int) -> Batch:
            # All row numbers go to every device: each gathers its own share of the batch.
            selection = order(index)
            return self._jitted[selection.bucket](self.held, selection.rows.astype(np.int32))

        return _ahead(map(batch, range(first, last)))


def own_rows(sharding: NamedSharding, rows: np.ndarray) -> np.ndarray:
    """Of a batch's rows [..., B], those that the devices of this process hold."""
    places: Any = sharding.addressable_devices_indices_map(rows.shape).values()
    for axis, size in enumerate(rows.shape):
        parts = sorted({place[axis].indices(size) for place in places})
        rows = np.concatenate([rows.take(range(*part), axis) for part in parts], axis)
    return rows


def _all_frames(split: Split, modality: str) -> np.ndarray:
    """All frames [F, C] of a split; one of zeros where there is none, so that rows can be taken."""
    whole = np.concatenate(list(split.parts(modality)))
    return whole if len(whole) else np.zeros((1, whole.shape[1]), np.float32)


def _gather(
    held: Any, rows: jax.Array, lengths: tuple[tuple[str, int], ...], utterances: int
) -> Batch:
    """The batch of `rows` [..., B], padded to `lengths`: what the pipeline makes of them.

    Args:
      held: the whole split.
      rows: maybe of several seeds.
      lengths: of each modality.
      utterances: of each video; 0 where rows are single utterances.
    """
    real = rows >= 0
    at = jnp.maximum(rows, 0)
    batch = {
        name: jnp.where(real, column[at], jnp.zeros((), column.dtype))
        for name, column in held["columns"].items()
    }
    batch["example_mask"] = real
    if utterances:
        batch["utterance_mask"] = real.reshape(*rows.shape[:-1], -1, utterances)
    for m, length in lengths:
        steps = jnp.arange(length)
        mask = (steps < held["lengths"][m][at][..., None]) & real[..., None]
        index = jnp.where(mask, held["starts"][m][at][..., None] + steps, 0)
        batch[m] = jnp.where(mask[..., None], held["frames"][m][index], 0.0)
        batch[mask_key(m)] = mask
    return batch


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yields `batches`, of which some are always under way."""
    queue = collections.deque(itertools.islice(batches, _AHEAD))
    while queue:
        yield queue.popleft()
        queue.extend(itertools.islice(batches, 1))
