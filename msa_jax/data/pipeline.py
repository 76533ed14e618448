"""tf.data pipelines from a `Split` to batches of NumPy arrays.

A batch is `{modality: [B, T, C] float32, modality + "_mask": [B, T] bool, ..., "score": [B]
float32, "label": [B] int32, "example_mask": [B] bool}`; of V videos also `"utterance_mask": [V, U]
bool`, B being V * U.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from msa_jax.data.buckets import Buckets
from msa_jax.data.order import Order
from msa_jax.data.schema import mask_key
from msa_jax.data.store import Split
from msa_jax.tasks import Task

Batch = dict[str, np.ndarray]


@functools.cache
def tensorflow() -> Any:
    """TensorFlow, which takes longer to import than all else: only for those who use it.

    The accelerators belong to JAX: TensorFlow would reserve their memory.
    """
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")
    return tf


def batches(
    split: Split,
    task: Task,
    order: Order,
    buckets: Buckets,
    *,
    first: int,
    last: int,
    share: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
) -> Iterator[Batch]:
    """The batches `first` to `last` - 1 of `order`, each padded as its bucket says.

    Args:
      split: where frames come from.
      task: gives the labels.
      order: says which rows make a batch.
      buckets: give the lengths to pad to.
      first, last: of the batches.
      share: of a batch's rows [..., B], those that this process yields. Every process takes the
        same number of batches of the same shapes.
    """
    tf = tensorflow()
    labels = task.labels(split.scores)
    types = {
        **dict.fromkeys(split.sequences, tf.float32),
        **{mask_key(m): tf.bool for m in split.sequences},
        **{"score": tf.float32, "label": tf.int32, "example_mask": tf.bool},
        **({"utterance_mask": tf.bool} if buckets.of_videos else {}),
    }
    names = list(types)

    def gather(index: np.ndarray) -> list[np.ndarray]:
        selection = order(int(index))
        rows = share(selection.rows)
        batch = split.gather(rows.reshape(-1), buckets.lengths[selection.bucket])
        batch = {name: each.reshape(*rows.shape, *each.shape[1:]) for name, each in batch.items()}
        batch |= columns(split, labels, rows)
        if buckets.of_videos:
            utterances = buckets.utterances[selection.bucket]
            batch["utterance_mask"] = (rows >= 0).reshape(*rows.shape[:-1], -1, utterances)
        return [batch[name] for name in names]

    def load(index: Any) -> dict[str, Any]:
        arrays = tf.numpy_function(gather, [index], [types[name] for name in names])
        return dict(zip(names, arrays, strict=True))

    indices = tf.data.Dataset.range(first, last)
    loaded = indices.map(load).prefetch(4)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1  # more would wait for one another (Python's GIL)
    options.autotune.enabled = False  # there is nothing to tune, and its thread delays the end
    yielded: Iterator[Batch] = loaded.with_options(options).as_numpy_iterator()
    return yielded


def columns(split: Split, labels: np.ndarray, rows: np.ndarray) -> Batch:
    """What a batch holds besides frames; fillers get zeros."""
    real = rows >= 0
    return {
        "score": np.where(real, split.scores[rows], np.float32(0)),
        "label": np.where(real, labels[rows], 0).astype(np.int32),
        "example_mask": real,
    }
