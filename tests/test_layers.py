"""Dropout and the random numbers below it; dense layers and norms."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from msa_jax.models.layers import (
    LAYER_NORM_EPSILON,
    Dense,
    Dropout,
    LayerNorm,
    hash_bits,
    sum_along,
    sum_rows,
)


def _bits(seed: int, count: int = 1 << 14) -> np.ndarray:
    return np.asarray(hash_bits(jax.random.key(seed), (count,)))


def test_every_bit_is_even() -> None:
    ones = np.unpackbits(_bits(0).view(np.uint8)).reshape(-1, 32).mean(axis=0)
    deviation = (ones - 0.5) * 2 * np.sqrt(1 << 14)
    assert np.abs(deviation).max() < 4, "standard errors"


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_uniform(seed: int) -> None:
    counts = np.bincount(_bits(seed) >> 24, minlength=256)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_numbers_depend_on_neither_neighbours_nor_other_keys() -> None:
    uniform = np.stack([_bits(seed) / 2**32 for seed in range(8)])
    limit = 4.5 / np.sqrt(uniform.shape[1])
    for lag in (1, 2, 3, 8, 32, 64, 1000):
        for row in uniform:
            assert abs(np.corrcoef(row[lag:], row[:-lag])[0, 1]) < limit
    between = np.corrcoef(uniform) - np.eye(8)
    assert np.abs(between).max() < limit


def test_one_bit_of_the_key_changes_half_of_the_bits() -> None:
    data = jax.random.key_data(jax.random.key(7))
    base = _bits(7)
    for half in range(2):
        for place in (0, 13, 31):
            flipped = data.at[half].set(data[half] ^ jnp.uint32(1 << place))
            other = hash_bits(jax.random.wrap_key_data(flipped), (1 << 14,))
            changed = np.unpackbits((base ^ np.asarray(other)).view(np.uint8)).mean()
            assert changed == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(rate: float) -> None:
    x = jnp.ones((200, 500))
    found = Dropout(rate).apply({}, x, False, rngs={"dropout": jax.random.key(0)})
    assert (found == 0).mean() == pytest.approx(rate, abs=0.006)
    np.testing.assert_allclose(found[found != 0], 1 / (1 - rate), rtol=1e-6)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, True), x)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.77])
def test_a_traced_rate_drops_the_same(rate: float) -> None:
    x, key = jnp.ones((64, 64)), jax.random.key(3)

    def drop(rate: float | jax.Array) -> jax.Array:
        return Dropout(rate).apply({}, x, False, rngs={"dropout": key})

    np.testing.assert_array_equal(jax.jit(drop)(jnp.float32(rate)), drop(rate))


def test_each_key_under_vmap_draws_as_alone() -> None:
    keys = jax.random.split(jax.random.key(5), 3)
    together = jax.vmap(lambda key: hash_bits(key, (7, 5)))(keys)
    for key, found in zip(keys, together, strict=True):
        np.testing.assert_array_equal(found, hash_bits(key, (7, 5)))


_LAYERS = [
    (Dense(7), nn.Dense(7), (3, 4, 6)),
    (Dense(3), nn.Dense(3), (3, 4, 6)),  # wider than what it makes
    (Dense((2, 5)), nn.DenseGeneral((2, 5)), (3, 4, 6)),
    (Dense(7, axes=2), nn.DenseGeneral(7, axis=(-2, -1)), (3, 4, 2, 6)),
    (LayerNorm(), nn.LayerNorm(epsilon=LAYER_NORM_EPSILON), (3, 4, 6)),
    (LayerNorm(), nn.LayerNorm(epsilon=LAYER_NORM_EPSILON), (3, 6)),
]


@pytest.mark.parametrize(("mine", "theirs", "shape"), _LAYERS)
@pytest.mark.parametrize("given", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layers_are_flaxs_and_so_are_their_gradients(
    mine: nn.Module, theirs: nn.Module, shape: tuple[int, ...], dtype: jnp.dtype, given: jnp.dtype
) -> None:
    mine, theirs = mine.clone(dtype=dtype), theirs.clone(dtype=dtype)
    x = (jax.random.normal(jax.random.key(0), shape) + 3).astype(given)
    params = theirs.init(jax.random.key(1), x)
    for ours, flaxs in zip(
        jax.tree.leaves(mine.init(jax.random.key(1), x)), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(ours, flaxs)
    # A scale that is the same everywhere hides where it goes.
    params = jax.tree.map(
        lambda leaf: leaf + jnp.linspace(0.1, 0.9, leaf.size).reshape(leaf.shape), params
    )

    def loss(layer: nn.Module, params: Any, x: jax.Array) -> jax.Array:
        return jnp.sin(layer.apply(params, x).astype(jnp.float32)).sum()

    tolerance = 1e-5 if given == dtype == jnp.float32 else 3e-2
    many = jnp.stack([x, 2 * x])
    for layer_input, spread in ((x, lambda f: f), (many, lambda f: jax.vmap(f, (None, 0)))):
        ours, flaxs = (
            spread(jax.value_and_grad(functools.partial(loss, layer), argnums=(0, 1)))(
                params, layer_input
            )
            for layer in (mine, theirs)
        )
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(flaxs), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(
                a.astype(jnp.float32), b.astype(jnp.float32), rtol=tolerance, atol=tolerance
            )


@pytest.fixture(params=["cpu", "default"])
def as_on_each_platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a platform is chosen, takes what a CPU would, then what others would."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *args, **branches: branches[request.param](*args)
    )


@pytest.mark.usefixtures("as_on_each_platform")
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 3e-2)])
def test_sums_are_sums_on_every_platform(dtype: jnp.dtype, tolerance: float) -> None:
    x = jax.random.normal(jax.random.key(0), (5, 4, 7), dtype)
    by = jnp.linspace(-1, 2, 7, dtype=dtype)
    exact, weights = (np.asarray(each, np.float64) for each in (x, by))
    for found, expected in (
        (sum_rows(x.reshape(-1, 7)), exact.sum((0, 1))),
        (sum_along(x), exact.sum(-1, keepdims=True)),
        (sum_along(x, by), (exact * weights).sum(-1, keepdims=True)),
    ):
        assert (found.shape, found.dtype) == (expected.shape, dtype)
        np.testing.assert_allclose(found.astype(jnp.float32), expected, tolerance, tolerance)


@pytest.mark.usefixtures("as_on_each_platform")
def test_a_long_sum_in_bfloat16_does_not_stick() -> None:
    """Added one by one in bfloat16, ones would come to 256 and no further."""
    x = jnp.ones((2000, 7), jnp.bfloat16)
    for found in (sum_rows(x), sum_along(x.T)):
        np.testing.assert_allclose(found.astype(jnp.float32), 2000, rtol=0.01)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_scanned_norm_keeps_its_input_as_it_came(dtype: jnp.dtype) -> None:
    """What a scan keeps of each layer for the backward pass, counted."""
    x = jnp.ones((3, 4, 6), dtype)
    params = LayerNorm(dtype=dtype).init(jax.random.key(0), x)

    def loss(x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return LayerNorm(dtype=dtype).apply(params, x), None

        return jax.lax.scan(layer, x, None, length=7)[0].sum()

    stacked = [
        variable.aval
        for equation in jax.make_jaxpr(jax.grad(loss))(x).eqns
        if equation.primitive.name == "scan"
        for variable in equation.outvars
        if variable.aval.shape == (7, 3, 4, 6)
    ]
    assert [aval.dtype for aval in stacked] == [dtype]
