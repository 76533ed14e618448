"""Scaled dot-product attention: the plain formula, and one that spares a CPU's memory.

B batch, Q queries, S what is asked, H heads, E width of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Which weights are kept [B, H, Q, S], bool, and the share that is; None: all are.
Kept = tuple[jax.Array, jax.Array] | None


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: Kept
) -> jax.Array:
    """The attended values [B, Q, H, E]; zeros where nothing may be attended to.

    The same function, and gradients, on every platform, to rounding.

    Args:
      query: [B, Q, H, E].
      key, value: [B, S, H, E].
      mask: [B or 1, 1, Q or 1, S]; where it is false nothing is attended to.
      kept: of dropout on the weights; what is kept grows by 1 over its share.
    """
    # Measured: below, weights are too few for their passes to matter.
    if key.shape[1] <= 2 * key.shape[3]:
        return _plain(query, key, value, mask, kept)
    return jax.lax.platform_dependent(
        query, key, value, mask, kept, cpu=_in_fewer_passes, default=_plain
    )


def weigh(query: jax.Array, key: jax.Array, mask: jax.Array) -> jax.Array:
    """The weights [B, H, Q, S] float32, whose rows sum to 1, or to 0: see `attend`."""
    scores = jnp.einsum("bqhd,bshd->bhqs", query, key, preferred_element_type=jnp.float32)
    return masked_softmax(scores / np.sqrt(query.shape[-1]), mask)


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Float32 softmax over the last axis where `mask` is true, else zeros."""
    scores = jnp.where(mask, scores.astype(jnp.float32), -1e30)
    return jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0.0)


def _plain(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: Kept
) -> jax.Array:
    weights = _drop(weigh(query, key, mask), kept).astype(value.dtype)
    return jnp.einsum("bhqs,bshd->bqhd", weights, value)


@jax.custom_vjp
def _in_fewer_passes(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: Kept
) -> jax.Array:
    """`_plain` with fewer passes over [B, H, Q, S], and none that transposes such an array.

    Long sequences' weights do not fit a core's cache: on a CPU to read and write them takes as long
    as the products. So the sum of a row divides what was attended, which is narrower than the
    weights, and the backward pass takes from it what a softmax's needs, as FlashAttention does (Dao
    et al., NeurIPS 2022). In all six products the first factor's last axis meets the second's last
    but one: of others XLA would make transposed copies. A step of A2 at width 128 with four layers
    takes a twentieth less time at 50 frames, and as long at 24.
    """
    return _forward(query, key, value, mask, kept)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: Kept
) -> tuple[jax.Array, Any]:
    scores = _product(_swap(query), _across(key)) / np.sqrt(query.shape[-1])
    scores = jnp.where(mask, scores, -1e30)
    exponentials = jnp.where(mask, jnp.exp(scores - scores.max(axis=-1, keepdims=True)), 0.0)
    # The sum of a row, as a product. Of a row that is not masked throughout it is 1 at least.
    total = jnp.maximum((exponentials @ jnp.ones(scores.shape[-1]))[..., None], 1.0)
    dropped = _drop(exponentials, kept).astype(value.dtype)
    attended = (_product(dropped, _swap(value)) / total).astype(value.dtype)
    return _swap(attended), (query, key, value, kept, exponentials, total, attended)


def _backward(saved: Any, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    query, key, value, kept, exponentials, total, attended = saved
    to_sum = _swap(gradient).astype(jnp.float32) / total
    mean = jnp.sum(to_sum * attended.astype(jnp.float32), axis=-1, keepdims=True)
    to_sum = to_sum.astype(value.dtype)
    to_weights = _drop(_product(to_sum, _across(value)), kept)
    to_scores = exponentials * (to_weights - mean) / np.sqrt(query.shape[-1])
    to_scores = to_scores.astype(key.dtype)
    dropped = _drop(exponentials, kept).astype(value.dtype)
    to_query = _swap(_product(to_scores, _swap(key)))
    to_key = _back(_product(_across(query), to_scores))
    to_value = _back(_product(to_sum.swapaxes(2, 3), dropped))
    return (
        to_query.astype(query.dtype),
        to_key.astype(key.dtype),
        to_value.astype(value.dtype),
        None,
        None,
    )


_in_fewer_passes.defvjp(_forward, _backward)


def _drop(weights: jax.Array, kept: Kept) -> jax.Array:
    return weights if kept is None else jnp.where(kept[0], weights / kept[1], 0.0)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """[B, H, M, N] float32 of [B, H, M, K] and [B, H, K, N]."""
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def _swap(x: jax.Array) -> jax.Array:
    """[B, H, T, E] of [B, T, H, E], or the other way round."""
    return x.swapaxes(1, 2)


def _across(x: jax.Array) -> jax.Array:
    """[B, H, E, T] of [B, T, H, E]."""
    return x.transpose(0, 2, 3, 1)


def _back(x: jax.Array) -> jax.Array:
    """[B, T, H, E] of [B, H, E, T]."""
    return x.transpose(0, 3, 1, 2)
