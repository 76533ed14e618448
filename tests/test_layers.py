"""Dropout and the random numbers below it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from msa_jax.models.layers import Dropout, hash_bits


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
