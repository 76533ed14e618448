"""The two ways of attention make the same of the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msa_jax.models import attend as attend_lib

_B, _Q, _S, _H, _E = 3, 5, 11, 2, 4


def _inputs(dtype: jnp.dtype, whole: bool, dropped: bool) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 5)
    query = jax.random.normal(keys[0], (_B, _Q, _H, _E), dtype)
    key, value = (jax.random.normal(keys[i], (_B, _S, _H, _E), dtype) for i in (1, 2))
    mask = jnp.ones((_B, 1, 1, _S), bool)
    if not whole:
        mask = jax.random.bernoulli(keys[3], 0.6, (_B, 1, _Q, _S))
        mask = mask.at[0].set(False).at[1, 0, 2].set(False)
    kept = jnp.ones((_B, _H, _Q, _S))
    if dropped:
        kept = jax.random.bernoulli(keys[4], 0.7, kept.shape) / 0.7
    return query, key, value, mask, kept


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
        for f in (attend_lib._in_few_passes, attend_lib._plain)
    )
    for mine, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert mine.dtype == plain.dtype
        np.testing.assert_allclose(
            mine.astype(jnp.float32), plain.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )


def test_a_row_that_may_attend_to_nothing_gets_zeros_and_gives_none() -> None:
    *asked, mask, kept = _inputs(jnp.float32, whole=False, dropped=False)
    attended, pull = jax.vjp(lambda *asked: attend_lib.attend(*asked, mask, kept), *asked)
    np.testing.assert_array_equal(attended[0], 0)
    np.testing.assert_array_equal(attended[1, 2], 0)
    for gradient in pull(jnp.ones_like(attended)):
        np.testing.assert_array_equal(gradient[0], 0)
        assert np.isfinite(gradient).all()
        assert (gradient[2] != 0).any()


@pytest.mark.parametrize("length", [2 * _E, 2 * _E + 1])
def test_where_weights_outweigh_what_is_attended_a_cpu_passes_few_times(length: int) -> None:
    query, key, value, mask, kept = _inputs(jnp.float32, whole=True, dropped=False)
    arrays = (query, key[:, :length], value[:, :length], mask[..., :length], kept[..., :length])
    lowered = jax.jit(attend_lib.attend).trace(*arrays)
    on_cpu = lowered.lower(lowering_platforms=("cpu",)).as_text()
    elsewhere = lowered.lower(lowering_platforms=("tpu",)).as_text()
    widest = f"{_B}x{_H}x{_Q}x{length}"

    def divides_weights(text: str) -> bool:
        lines = [line for line in text.splitlines() if "stablehlo.divide" in line]
        # The plain formula divides scores by a root and powers by their sum.
        return sum(widest in line for line in lines) > 0

    assert divides_weights(elsewhere)
    assert divides_weights(on_cpu) == (length <= 2 * _E)
