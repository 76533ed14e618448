"""Losses, in float32, with the weight of every example given from outside."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def per_example(logits: jax.Array, batch: Any, kind: str) -> jax.Array:
    """The loss [B] of `logits` [B, K].

    Args:
      logits: [B, K] float32; K is 1 for l1, l2 and huber.
      batch: holds `label` [B] for cross_entropy, else `score` [B].
      kind: cross_entropy, l1, l2 or huber (quadratic below an error of 1).
    """
    if kind == "cross_entropy":
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    error = logits[:, 0] - batch["score"]
    if kind == "l1":
        return jnp.abs(error)
    return error**2 if kind == "l2" else optax.huber_loss(error)


def example_losses(output: Any, batch: Any, kind: str, unimodal_weight: float) -> jax.Array:
    """The whole loss [B] of a model's `Output`, without its `aux_loss`.

    The logits' own loss (none where they are a vote), plus `unimodal_weight` times the sum of the
    losses of the unimodal classifiers whose modality the example has. A sum: what one classifier
    learns then depends on no other modality.
    """
    total = jnp.zeros(output.logits.shape[0])
    if not output.voted:
        total += per_example(output.logits, batch, kind)
    if output.unimodal:
        present = jnp.stack([output.present[m] for m in output.unimodal])
        each = jnp.stack([per_example(x, batch, kind) for x in output.unimodal.values()])
        total += unimodal_weight * jnp.where(present, each, 0.0).sum(axis=0)
    return total


def example_weights(batch: Any, class_weights: tuple[float, ...]) -> jax.Array:
    """The weight [B] of each example, summing to 1 over the batch; 0 for padded examples.

    A loss is the sum of `weight * example_loss`, so that parts of a batch add up to the whole.
    """
    weights = batch["example_mask"].astype(jnp.float32)
    if class_weights:
        weights *= jnp.asarray(class_weights)[batch["label"]]
    return weights / jnp.maximum(weights.sum(), 1e-9)


def balanced_class_weights(labels: np.ndarray, num_classes: int) -> tuple[float, ...]:
    """Weights N / (K * count) of each class; 0 for a class that never occurs."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (num_classes * np.maximum(counts, 1)) * (counts > 0)
    return tuple(float(w) for w in weights)
