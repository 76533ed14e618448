"""From host batches to sharded device arrays; the only file of `data` that knows JAX."""

import collections
import itertools
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding


def to_devices(
    batches: Iterator[Mapping[str, np.ndarray]], sharding: NamedSharding, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Puts each process's rows on its devices, `ahead` batches before they are used."""

    def put(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in batch.items()
        }

    queue = collections.deque(map(put, itertools.islice(batches, ahead)))
    while queue:
        yield queue.popleft()
        queue.extend(map(put, itertools.islice(batches, 1)))
