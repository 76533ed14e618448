"""Multi-head attention over masked sequences.

B batch, Q queries, S what is asked, H heads, E width of a head, D width of the model.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from msa_jax.models.layers import Dense, Dropout, Kept, drop, masked_softmax, sum_along


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention that returns its weights and stands a fully masked row.

    Flax's own layer hides the weights and gives a masked row the mean of its padding; here such a
    row gets zeros. Softmax is float32.

    Attributes:
      num_heads: H, a divisor of the width.
      dropout: rate on the weights, as `torch.nn.TransformerEncoderLayer` has it; it costs a random
        number for each of the B * H * Q * S weights.
      dtype: of the computation.
    """

    num_heads: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, queries: jax.Array, keys: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Attends from `queries` [B, Q, D] to `keys` [B, S, D] where `mask` is true.

        Args:
          queries, keys: what asks, and what is asked; values are made of the keys.
          mask: [B, S], or [B, Q, S] where queries may not all see the same (1 stands for any B).
          train: whether weights are dropped.

        Returns:
          The attended values [B, Q, D] and the weights [B, H, Q, S] float32, whose rows sum to 1,
          or to 0 where nothing may be attended to. The weights are made apart, before dropout:
          under `jax.jit` a caller that leaves them pays nothing, and one that takes them pays for a
          second product of queries and keys only where `attend` takes fewer passes.
        """
        width = queries.shape[-1]
        shape = (self.num_heads, width // self.num_heads)

        def project(name: str, x: jax.Array) -> jax.Array:
            return Dense(shape, dtype=self.dtype, name=name)(x)

        query, key, value = project("query", queries), project("key", keys), project("value", keys)
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
        sizes = (len(queries), self.num_heads, queries.shape[1], keys.shape[1])
        kept = Dropout(self.dropout).draw(sizes, deterministic=not train)
        attended = attend(query, key, value, mask, kept)
        out = Dense(width, axes=2, dtype=self.dtype, name="out")(attended)
        return out, weigh(query, key, mask)


def weigh(query: jax.Array, key: jax.Array, mask: jax.Array) -> jax.Array:
    """The weights [B, H, Q, S] float32 of what `attend` takes, before dropout."""
    scores = jnp.einsum("bqhd,bshd->bhqs", query, key, preferred_element_type=jnp.float32)
    return masked_softmax(scores / np.sqrt(query.shape[-1]), mask)


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: Kept
) -> jax.Array:
    """The attended values [B, Q, H, E]: `drop(weigh(query, key, mask), kept)` times the values.

    Args:
      query: [B, Q, H, E].
      key, value: [B, S, H, E], of the query's dtype.
      mask: [B or 1, 1, Q or 1, S]; where it is false nothing is attended to.
      kept: of dropout on the weights.
    """
    # With E = 16 a step on a CPU takes less time at 50 keys, and as long at 24. Compiled for a TPU,
    # the program is leaner at 50 keys with E = 8; with E = 64, where it was forced, it is not. Not
    # measured on a GPU.
    if key.shape[1] > 2 * key.shape[3]:
        return _in_fewer_passes(query, key, value, mask, kept)
    weights = drop(weigh(query, key, mask), kept).astype(value.dtype)
    return jnp.einsum("bhqs,bshd->bqhd", weights, value)


@jax.custom_vjp
def _in_fewer_passes(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: Kept
) -> jax.Array:
    """`attend` with fewer passes over [B, H, Q, S], and none that transposes such an array.

    The weights of long sequences do not fit a CPU's cache: to read and write them takes as long as
    the products. So the sum of a row divides what was attended, which is narrower than the weights,
    and the backward pass takes from it what a softmax's needs, as FlashAttention does (Dao et al.,
    NeurIPS 2022). In all six products the first factor's last axis meets the second's last but one:
    of others XLA would make transposed copies.
    """
    return _forward(query, key, value, mask, kept)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: Kept
) -> tuple[jax.Array, Any]:
    scores = _product(_swap(query), _across(key)) / np.sqrt(query.shape[-1])
    scores = jnp.where(mask, scores, -1e30)
    exponentials = jnp.where(mask, jnp.exp(scores - scores.max(axis=-1, keepdims=True)), 0.0)
    # Of a row that is not masked throughout the sum is 1 at least.
    total = jnp.maximum(sum_along(exponentials), 1.0)
    dropped = drop(exponentials, kept).astype(value.dtype)
    attended = _swap((_product(dropped, _swap(value)) / total).astype(value.dtype))
    return attended, (query, key, value, kept, exponentials, total, attended)


def _backward(saved: Any, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    query, key, value, kept, exponentials, total, attended = saved
    wide = gradient.astype(jnp.float32)
    from_total = _swap((wide * attended.astype(jnp.float32)).sum(axis=-1, keepdims=True)) / total
    to_product = (_swap(wide) / total).astype(value.dtype)
    to_exponentials = drop(_product(to_product, _across(value)), kept) - from_total
    # Nothing goes through a row's maximum: what is attended does not depend on it.
    to_scores = exponentials * to_exponentials / np.sqrt(query.shape[-1])
    to_scores = to_scores.astype(key.dtype)
    dropped = drop(exponentials, kept).astype(value.dtype)
    to_query = _swap(jnp.matmul(to_scores, _swap(key)))
    to_key = _back(jnp.matmul(_across(query), to_scores))
    to_value = _back(jnp.matmul(to_product.swapaxes(2, 3), dropped))
    return to_query, to_key, to_value, None, None


_in_fewer_passes.defvjp(_forward, _backward)


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
