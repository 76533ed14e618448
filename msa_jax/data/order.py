"""The order of training examples: a pure function of (seed, position), the same for any number of
processes, with no state to save and none to restore.
"""

import tensorflow as tf


def row(position: tf.Tensor, size: int, seed: int) -> tf.Tensor:
    """The row of the train split that is the `position`-th example of training.

    Each epoch visits every row once, in an order of its own; batches run on across epochs.

    Args:
      position: int64 scalar, examples before this one since the start of training.
      size: rows N of the split.
      seed: of the run.
    """
    epoch = position // size
    key = tf.stack([tf.constant(seed % 2**31, tf.int64), epoch % 2**31, epoch // 2**31])
    return tf.random.experimental.index_shuffle(
        position % size, tf.cast(key, tf.int32), tf.constant(size - 1, tf.int64)
    )
