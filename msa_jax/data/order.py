"""The order of training examples: a pure function of (seed, position), the same for any number of
processes, with no state to save and none to restore.
"""

import tensorflow as tf


def rows(positions: tf.Tensor, size: int, seed: int) -> tf.Tensor:
    """The rows of the train split that stand at `positions` of the training stream.

    Each epoch visits every row once, in an order of its own; the stream runs on across epochs.

    Args:
      positions: [B] int64, examples before each since the start of training.
      size: rows N of the split.
      seed: of the run.

    Returns:
      [B] int64 in [0, N).
    """
    epochs = positions // size
    seeds = tf.fill(tf.shape(epochs), tf.constant(seed, tf.int64))
    # The op behind tf.random.experimental.index_shuffle, whose wrapper pads a matrix of seeds along
    # the wrong axis.
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % size,
        seed=tf.stack([seeds, epochs, tf.zeros_like(epochs)], axis=1),
        max_index=tf.fill(tf.shape(epochs), tf.constant(size - 1, tf.int64)),
        rounds=4,
    )
