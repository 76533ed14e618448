"""Building blocks: dropout, dense layers, norms, masked softmax and pooling, positions."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Torch's nn.LayerNorm uses this; Flax's own default is 1e-6.
LAYER_NORM_EPSILON = 1e-5

# What dropout keeps of an array, bool and as large, and the share kept, float32; None where all is.
Kept = tuple[jax.Array, jax.Array] | None


class Dropout(nn.Module):
    """Dropout with cheap random numbers, and a rate that may be traced.

    `nn.Dropout` draws from JAX's Threefry, which on two CPU cores takes more than a third of a
    training step, and asks in Python whether its rate is 0, so that members of a population could
    not differ in it. Here a bit mixer hashes each feature's number with the layer's key
    (`hash_bits`): still a pure function of the key, the same under vmap and on any number of
    devices.

    Attributes:
      rate: probability in [0, 1) that a feature is set to 0; the others grow by 1 / (1 - rate).
    """

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        """`x` [...] with features dropped, or as it is."""
        return drop(x, self.draw(x.shape, deterministic))

    def draw(self, shape: tuple[int, ...], deterministic: bool) -> Kept:
        """What is kept of an array of this shape, for `drop`."""
        if deterministic or (isinstance(self.rate, int | float) and not self.rate):
            return None
        share = 1 - jnp.asarray(self.rate, jnp.float32)
        bits = hash_bits(self.make_rng("dropout"), shape) >> 8
        return bits < jnp.round(share * 2**24).astype(jnp.uint32), share


def drop(x: jax.Array, kept: Kept) -> jax.Array:
    """`x` [...] divided by the share kept where it is kept, else 0."""
    if kept is None:
        return x
    where, share = kept
    return jnp.where(where, x / share.astype(x.dtype), jnp.zeros((), x.dtype))


def hash_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random bits, `shape` uint32, that are a hash of the key and each element's number.

    Good enough to drop features by, not for cryptography, nor for drawing weights. The mixer
    multiplies and shifts, in the manner of Wellons' "hash-prospector"; each half of the key goes in
    before a round of it. That bits are even and independent of one another is tested.
    """
    first, second = jax.random.key_data(key)[:2]
    count = jax.lax.iota(jnp.uint32, int(np.prod(shape)))
    return _mix(_mix(count + first) ^ second).reshape(shape)


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
    return x ^ (x >> 15)


class Dense(nn.Module):
    """`nn.Dense` or `nn.DenseGeneral` with a bias, and its backward pass written out.

    The same parameters and outputs. What automatic differentiation makes of the weights' gradient
    is, on a CPU, a product of transposed copies and a slow sum over rows: with `_affine` the step
    of an encoder takes a quarter less time.

    Attributes:
      features: widths of the output's last axes.
      axes: how many last axes of the input are summed over.
      dtype: of the computation.
    """

    features: int | tuple[int, ...]
    axes: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., *features] of `x` [..., *inputs]."""
        inputs = x.shape[-self.axes :]
        outputs = (self.features,) if isinstance(self.features, int) else self.features
        wide, narrow = int(np.prod(inputs)), int(np.prod(outputs))

        def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return nn.initializers.lecun_normal()(key, (wide, narrow)).reshape(shape)

        kernel = self.param("kernel", init, (*inputs, *outputs)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, outputs).astype(self.dtype)
        rows = x.astype(self.dtype).reshape(-1, wide)
        y = _affine(rows, kernel.reshape(wide, narrow), bias.reshape(narrow))
        return y.reshape(*x.shape[: x.ndim - self.axes], *outputs)


@jax.custom_vjp
def _affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """[N, F] of `x` [N, D], `kernel` [D, F] and `bias` [F]."""
    return x @ kernel + bias


def _affine_forward(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, Any]:
    return _affine(x, kernel, bias), (x, kernel)


def _affine_backward(saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel = saved
    to_x = jax.lax.dot_general(gradient, kernel, (((1,), (1,)), ((), ())))
    return to_x, _over_rows(x, gradient), sum_rows(gradient)


_affine.defvjp(_affine_forward, _affine_backward)


def _over_rows(x: jax.Array, y: jax.Array) -> jax.Array:
    """[D, F], the sum over rows of the products of `x` [N, D] and `y` [N, F].

    Made transposed where that has the longer rows: [512, 64] of 1,000 rows then takes a CPU a fifth
    less time.
    """
    if x.shape[1] <= y.shape[1]:
        return _rows_with_rows(x, y)
    return _rows_with_rows(y, x).T


def _rows_with_rows(x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.dot_general(x, y, (((0,), (0,)), ((), ())))


# A CPU sums many times faster by a product with ones. Elsewhere a plain sum is better: it takes its
# terms as they are made, which a product would have written to memory first. Only for functions
# whose backward pass is written out: automatic differentiation would keep what either branch needs.


def sum_rows(x: jax.Array) -> jax.Array:
    """[D], the sum over rows of `x` [N, D]."""
    return jax.lax.platform_dependent(
        x, cpu=lambda x: jnp.ones(len(x), x.dtype) @ x, default=lambda x: x.sum(axis=0)
    )


def sum_along(x: jax.Array, by: jax.Array | None = None) -> jax.Array:
    """[..., 1], the sum of each row of `x` [..., D], weighted by `by` [D] if given."""
    by = jnp.ones(x.shape[-1:], x.dtype) if by is None else by
    return jax.lax.platform_dependent(
        x,
        by,
        cpu=lambda x, by: (x @ by)[..., None],
        default=lambda x, by: (x * by).sum(axis=-1, keepdims=True),
    )


class LayerNorm(nn.Module):
    """`nn.LayerNorm` with torch's epsilon, and its backward pass written out.

    The same parameters and outputs. Statistics and parameters are float32. What is kept for the
    backward pass is `x` as it came and two numbers a row. A step of A2 at width 128 with four
    layers takes a CPU a twentieth less time than by automatic differentiation; compiled for eight
    chips of v5e, the large model of docs/scaling.md moves 3 % more through memory.

    Attributes:
      dtype: of the output.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] of `x` [..., D], each row of mean 0 and deviation 1 before scale and bias."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return _normalize(x, scale, bias, self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return _normalize_forward(x, scale, bias, dtype)[0]


def _normalize_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = x.astype(jnp.float32)
    mean = sum_along(wide) / len(scale)
    # A sum of what is made on the way: for a product squares would be written down first.
    variance = jnp.maximum((wide * wide).mean(axis=-1, keepdims=True) - mean * mean, 0)
    rate = jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    y = (wide - mean) * (rate * scale) + bias
    return y.astype(dtype), (x, mean, rate, scale)


def _normalize_backward(
    dtype: jnp.dtype, saved: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    del dtype  # the gradient comes in it
    x, mean, rate, scale = saved
    width = len(scale)
    gradient = gradient.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * rate
    by_element = gradient * normal
    from_mean = sum_along(gradient, scale) / width
    from_deviation = sum_along(by_element, scale) / width
    to_x = rate * (gradient * scale - from_mean - normal * from_deviation)
    to_scale, to_bias = (sum_rows(each.reshape(-1, width)) for each in (by_element, gradient))
    return to_x.astype(x.dtype), to_scale, to_bias


_normalize.defvjp(_normalize_forward, _normalize_backward)


class Classifier(nn.Module):
    """Dropout and hidden layers, then a linear layer to K outputs in float32.

    Attributes:
      num_outputs: K.
      hidden: widths of the hidden ReLU layers; () is a single linear layer.
      dropout: rate before each layer.
    """

    num_outputs: int
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, train: bool) -> jax.Array:
        """Logits [B, K] float32 of `features` [B, F]."""
        for layer, width in enumerate(self.hidden):
            features = Dropout(self.dropout)(features, deterministic=not train)
            features = nn.relu(Dense(width, dtype=self.dtype, name=f"hidden_{layer}")(features))
        features = Dropout(self.dropout)(features, deterministic=not train)
        return Dense(self.num_outputs, dtype=jnp.float32, name="logits")(features)


class AttentionPool(nn.Module):
    """A weighted mean of tokens: weights are a softmax of u . tanh(W x) over the real ones.

    Yang et al., "Hierarchical Attention Networks" (NAACL 2016), with as many hidden units as the
    tokens are wide.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """[B, D] of `tokens` [B, T, D] where `mask` [B, T] is true, else zeros."""
        hidden = jnp.tanh(Dense(tokens.shape[-1], dtype=self.dtype, name="hidden")(tokens))
        scores = nn.Dense(1, use_bias=False, dtype=self.dtype, name="score")(hidden)[..., 0]
        weights = masked_softmax(scores, mask)
        kept = jnp.where(mask[..., None], tokens.astype(jnp.float32), 0.0)
        return jnp.einsum("bt,btd->bd", weights, kept).astype(tokens.dtype)


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Float32 softmax over the last axis where `mask` is true, else zeros."""
    scores = jnp.where(mask, scores.astype(jnp.float32), -1e30)
    return jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0.0)


def pool_mean(tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean [B, D] of `tokens` [B, T, D] where `mask` [B, T] is true, else zeros."""
    kept = jnp.where(mask[..., None], tokens.astype(jnp.float32), 0.0)
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return (kept.sum(axis=1) / count).astype(tokens.dtype)


def pool_last(tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """The last [B, D] of `tokens` [B, T, D] where `mask` [B, T] is true, else zeros."""
    steps = jnp.arange(mask.shape[1])
    last = jnp.where(mask, steps, -1).max(axis=1)
    picked = jnp.take_along_axis(tokens, jnp.maximum(last, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where(last[:, None] >= 0, picked, 0.0)


def sinusoidal_positions(length: int, width: int) -> np.ndarray:
    """Positions [T, D] of "Attention Is All You Need": sines at even columns, cosines at odd."""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    table = np.zeros((length, width), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)[:, : width // 2]
    return table
