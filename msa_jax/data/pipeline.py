"""tf.data pipelines from a `Split` to batches of NumPy arrays.

A batch is `{modality: [B, T, C] float32, modality + "_mask": [B, T] bool, ..., "score": [B]
float32, "label": [B] int32, "example_mask": [B] bool}`.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from msa_jax.data import order
from msa_jax.data.schema import mask_key
from msa_jax.data.store import Split
from msa_jax.tasks import Task

Batch = dict[str, np.ndarray]

# The accelerator belongs to JAX: TensorFlow would reserve its memory.
tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")


def train_batches(
    split: Split,
    task: Task,
    *,
    lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """The batches of steps `first_step` to `last_step` - 1; each is a function of (seed, step).

    Args:
      split: the train split.
      task: gives the labels.
      lengths: `{modality: T}` to pad to.
      batch_size: of the whole step; a process yields its own `batch_size / process_count` rows.
      seed: of the run.
      first_step: steps already taken.
      last_step: where to stop.
      process_index, process_count: this process among all.
    """
    share = batch_size // process_count

    def rows(step: tf.Tensor) -> tf.Tensor:
        start = step * batch_size + process_index * share
        return order.rows(start + tf.range(share, dtype=tf.int64), len(split), seed)

    steps = tf.data.Dataset.range(first_step, last_step)
    return _batches(steps.map(rows), split, task, lengths)


def eval_batches(
    split: Split,
    task: Task,
    *,
    lengths: Mapping[str, int],
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every row of `split` once and in order, in whole batches: the last is filled up with rows
    whose `example_mask` is false. Every process takes the same number of batches.
    """
    share = batch_size // process_count

    def rows(batch: tf.Tensor) -> tf.Tensor:
        return batch * batch_size + process_index * share + tf.range(share, dtype=tf.int64)

    batches = tf.data.Dataset.range(-(-len(split) // batch_size))
    return _batches(batches.map(rows), split, task, lengths)


def _batches(
    rows: tf.data.Dataset, split: Split, task: Task, lengths: Mapping[str, int]
) -> Iterator[Batch]:
    """Turns row numbers [B] into batches; numbers past the end make masked rows."""
    labels = task.labels(split.scores)
    types = {
        **dict.fromkeys(split.sequences, tf.float32),
        **{mask_key(m): tf.bool for m in split.sequences},
        **{"score": tf.float32, "label": tf.int32, "example_mask": tf.bool},
    }
    names = list(types)

    def gather(numbers: np.ndarray) -> list[np.ndarray]:
        real = numbers < len(split)
        numbers = np.where(real, numbers, 0)
        batch = split.gather(numbers, lengths)
        for modality in split.sequences:
            batch[mask_key(modality)] &= real[:, None]
        batch |= {"score": split.scores[numbers], "label": labels[numbers], "example_mask": real}
        return [batch[name] for name in names]

    def load(numbers: tf.Tensor) -> dict[str, tf.Tensor]:
        arrays = tf.numpy_function(gather, [numbers], [types[name] for name in names])
        return dict(zip(names, arrays, strict=True))

    dataset = rows.map(load, num_parallel_calls=2, deterministic=True).prefetch(4)
    return dataset.as_numpy_iterator()
