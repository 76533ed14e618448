"""Scaled dot-product attention: the plain formula, and one that spares a CPU's memory.

B batch, Q queries, S what is asked, H heads, E width of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: jax.Array
) -> jax.Array:
    """The attended values [B, Q, H, E]; zeros where nothing may be attended to.

    The same function on every platform, to rounding.

    Args:
      query: [B, Q, H, E].
      key, value: [B, S, H, E].
      mask: [B or 1, 1, Q or 1, S]; where it is false nothing is attended to.
      kept: [B, H, Q, S] float32 by which weights are multiplied: what dropout makes of ones.
    """
    wide = key.shape[1] > 2 * key.shape[3]  # weights outweigh what is attended
    on_cpu = _in_few_passes if wide else _plain
    return jax.lax.platform_dependent(query, key, value, mask, kept, cpu=on_cpu, default=_plain)


def weigh(query: jax.Array, key: jax.Array, mask: jax.Array) -> jax.Array:
    """The weights [B, H, Q, S] float32, whose rows sum to 1, or to 0: see `attend`."""
    scores = jnp.einsum("bqhd,bshd->bhqs", query, key, preferred_element_type=jnp.float32)
    return masked_softmax(scores / np.sqrt(query.shape[-1]), mask)


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Float32 softmax over the last axis where `mask` is true, else zeros."""
    scores = jnp.where(mask, scores.astype(jnp.float32), -1e30)
    return jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0.0)


def _plain(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: jax.Array
) -> jax.Array:
    weights = weigh(query, key, mask) * kept
    return jnp.einsum("bhqs,bshd->bqhd", weights.astype(value.dtype), value)


@jax.custom_vjp
def _in_few_passes(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: jax.Array
) -> jax.Array:
    """`_plain` with as few passes over [B, H, Q, S] as there can be, and none that transposes one.

    Long sequences' do not fit a core's cache: on a CPU to read and write them takes as long as the
    products. So the sum of a row divides what was attended, which is narrower than the weights, and
    the backward pass takes from it what a softmax's needs, as FlashAttention does (Dao et al.,
    NeurIPS 2022). In all six products the first factor's last axis meets the second's last but one:
    of others XLA would make transposed copies. The step of a large encoder takes a tenth less time
    at 50 frames; where weights are no wider than what is attended there is nothing to gain.
    """
    return _forward(query, key, value, mask, kept)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: jax.Array
) -> tuple[jax.Array, Any]:
    scores = _product(_heads(query) / np.sqrt(query.shape[-1]), _heads_across(key))
    scores = jnp.where(mask, scores, -1e30)
    powers = jnp.where(mask, jnp.exp(scores - scores.max(axis=-1, keepdims=True)), 0.0)
    # Of a row that is not masked throughout, the largest power is 1.
    total = jnp.maximum((powers @ jnp.ones(powers.shape[-1]))[..., None], 1.0)
    dropped = (powers * kept).astype(value.dtype)
    attended = (_product(dropped, _heads(value)) / total).astype(value.dtype)
    return _heads(attended), (query, key, value, kept, powers, total, attended)


def _backward(saved: Any, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    query, key, value, kept, powers, total, attended = saved
    root = np.sqrt(query.shape[-1])
    felt = _heads(gradient).astype(jnp.float32) / total
    mean = jnp.sum(felt * attended.astype(jnp.float32), axis=-1, keepdims=True)
    felt = felt.astype(value.dtype)
    to_weights = _product(felt, _heads_across(value)) * kept
    to_scores = (powers * (to_weights - mean)).astype(key.dtype)
    dropped = (powers * kept).astype(value.dtype)
    to_query = _heads(_product(to_scores, _heads(key)) / root)
    to_key = _heads_back(_product(_heads_across(query) / root, to_scores))
    to_value = _heads_back(_product(felt.swapaxes(2, 3), dropped))
    return (
        to_query.astype(query.dtype),
        to_key.astype(key.dtype),
        to_value.astype(value.dtype),
        None,
        None,
    )


_in_few_passes.defvjp(_forward, _backward)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """[B, H, M, N] float32 of [B, H, M, K] and [B, H, K, N]."""
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def _heads(x: jax.Array) -> jax.Array:
    """[B, H, T, E] of [B, T, H, E], and back."""
    return x.swapaxes(1, 2)


def _heads_across(x: jax.Array) -> jax.Array:
    """[B, H, E, T] of [B, T, H, E]."""
    return x.transpose(0, 2, 3, 1)


def _heads_back(x: jax.Array) -> jax.Array:
    """[B, T, H, E] of [B, H, E, T]."""
    return x.transpose(0, 3, 1, 2)
