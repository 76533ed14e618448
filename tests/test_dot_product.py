"""The two ways of attention make the same of the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msa_jax.models import dot_product

_B, _Q, _S, _H, _E = 3, 5, 11, 2, 4


def _inputs(dtype: jnp.dtype, whole: bool, dropped: bool) -> tuple[Any, ...]:
    keys = jax.random.split(jax.random.key(0), 5)
    query = jax.random.normal(keys[0], (_B, _Q, _H, _E), dtype)
    key, value = (jax.random.normal(keys[i], (_B, _S, _H, _E), dtype) for i in (1, 2))
    mask = jnp.ones((_B, 1, 1, _S), bool)
    if not whole:
        mask = jax.random.bernoulli(keys[3], 0.6, (_B, 1, _Q, _S))
        mask = mask.at[0].set(False).at[1, 0, 2].set(False)
    kept = (jax.random.bernoulli(keys[4], 0.7, (_B, _H, _Q, _S)), jnp.float32(0.7))
    return query, key, value, mask, kept if dropped else None


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 4e-2)])
def test_few_passes_are_the_plain_formula_and_so_are_its_gradients(
    whole: bool, dropped: bool, dtype: jnp.dtype, tolerance: float
) -> None:
    *asked, mask, kept = _inputs(dtype, whole, dropped)

    def loss(attend: Any, *asked: jax.Array) -> tuple[jax.Array, jax.Array]:
        attended = attend(*asked, mask, kept)
        assert attended.dtype == dtype
        return jnp.sin(attended.astype(jnp.float32)).sum(), attended

    found, expected = (
        jax.value_and_grad(lambda *asked, f=f: loss(f, *asked), argnums=(0, 1, 2), has_aux=True)(
            *asked
        )
        for f in (dot_product._in_fewer_passes, dot_product._plain)
    )
    for mine, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert mine.dtype == plain.dtype
        np.testing.assert_allclose(
            mine.astype(jnp.float32), plain.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )


def test_a_row_that_may_attend_to_nothing_gets_zeros_and_gives_none() -> None:
    *asked, mask, kept = _inputs(jnp.float32, whole=False, dropped=False)
    attended, pull = jax.vjp(lambda *asked: dot_product.attend(*asked, mask, kept), *asked)
    np.testing.assert_array_equal(attended[0], 0)
    np.testing.assert_array_equal(attended[1, 2], 0)
    for gradient in pull(jnp.ones_like(attended)):
        np.testing.assert_array_equal(gradient[0], 0)
        assert np.isfinite(gradient).all()
        assert (gradient[2] != 0).any()


def test_each_under_vmap_and_with_queries_that_see_the_past_alone() -> None:
    query, key, value, _, kept = _inputs(jnp.float32, whole=True, dropped=True)
    mask = jnp.tril(jnp.ones((1, 1, _Q, _S), bool))

    def attended(attend: Any) -> jax.Array:
        many = jax.vmap(lambda query: attend(query, key, value, mask, kept))
        return many(jnp.stack([query, 2 * query]))

    found, expected = attended(dot_product._in_fewer_passes), attended(dot_product._plain)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(
        found[0], dot_product.attend(query, key, value, mask, kept), rtol=2e-6, atol=2e-6
    )


@pytest.mark.parametrize("length", [2 * _E, 2 * _E + 1])
def test_a_cpu_has_a_way_of_its_own_where_weights_are_many(length: int) -> None:
    query, key, value, mask, _ = _inputs(jnp.float32, whole=True, dropped=False)
    asked = (query, key[:, :length], value[:, :length], mask[..., :length], None)
    traced = jax.jit(dot_product.attend).trace(*asked)
    on_cpu, elsewhere = (
        traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "tpu")
    )
    assert (on_cpu != elsewhere) == (length > 2 * _E)
