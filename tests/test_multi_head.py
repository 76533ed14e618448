"""Attention equals its formula, whichever way it is computed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msa_jax.models.multi_head import MultiHeadAttention, attend

_B, _Q, _S, _H, _E = 3, 5, 11, 2, 4  # S > 2 E: in fewer passes


def _plain(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, kept: Any) -> Any:
    scores = jnp.einsum("bqhd,bshd->bhqs", query, key, preferred_element_type=jnp.float32)
    scores = scores / np.sqrt(query.shape[-1])
    most = jnp.where(mask, scores, -jnp.inf).max(axis=-1, keepdims=True, initial=-1e9)
    exponentials = jnp.exp(jnp.where(mask, scores - most, -jnp.inf))
    weights = exponentials / jnp.maximum(exponentials.sum(axis=-1, keepdims=True), 1e-9)
    if kept is not None:
        weights = weights * kept[0] / kept[1]
    return jnp.einsum("bhqs,bshd->bqhd", weights.astype(value.dtype), value)


def _inputs(dtype: jnp.dtype, whole: bool, dropped: bool, seed: int = 0) -> tuple[Any, ...]:
    keys = jax.random.split(jax.random.key(seed), 5)
    query = jax.random.normal(keys[0], (_B, _Q, _H, _E), dtype)
    key, value = (jax.random.normal(keys[i], (_B, _S, _H, _E), dtype) for i in (1, 2))
    mask = jnp.ones((_B, 1, 1, _S), bool)
    if not whole:
        mask = jax.random.bernoulli(keys[3], 0.6, (_B, 1, _Q, _S))
        mask = mask.at[0].set(False).at[1, 0, 2].set(False)
    share = jnp.float32(0.7 - 0.2 * seed)
    kept = (jax.random.bernoulli(keys[4], share, (_B, _H, _Q, _S)), share)
    return query, key, value, mask, kept if dropped else None


def _cut(inputs: tuple[Any, ...], length: int) -> tuple[Any, ...]:
    """Of what is asked, the first `length`."""
    query, key, value, mask, kept = inputs
    kept = kept and (kept[0][..., :length], kept[1])
    return query, key[:, :length], value[:, :length], mask[..., :length], kept


def _gradients(attend: Callable[..., jax.Array], *inputs: Any) -> Any:
    """The attended values, and what the sum of their sines gives query, key and value."""

    def loss(*asked: jax.Array) -> tuple[jax.Array, jax.Array]:
        attended = attend(*asked, *inputs[3:])
        return jnp.sin(attended.astype(jnp.float32)).sum(), attended

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs[:3])


def _assert_same(found: Any, expected: Any, tolerance: float) -> None:
    for mine, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert mine.dtype == plain.dtype
        np.testing.assert_allclose(
            mine.astype(jnp.float32), plain.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("length", [2 * _E, _S])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 4e-2)])
def test_attention_is_its_formula_and_so_are_its_gradients(
    length: int, whole: bool, dropped: bool, dtype: jnp.dtype, tolerance: float
) -> None:
    inputs = _cut(_inputs(dtype, whole, dropped), length)
    found = _gradients(attend, *inputs)
    assert found[0][1].dtype == dtype
    _assert_same(found, _gradients(_plain, *inputs), tolerance)


@pytest.mark.parametrize("dropped", [True, False])
def test_members_of_a_population_attend_as_alone(dropped: bool) -> None:
    members = [_inputs(jnp.float32, whole=False, dropped=dropped, seed=seed) for seed in range(2)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    found = jax.vmap(lambda *inputs: _gradients(attend, *inputs))(*together)
    for number, inputs in enumerate(members):
        mine = jax.tree.map(lambda leaf, number=number: leaf[number], found)
        _assert_same(mine, _gradients(attend, *inputs), 2e-6)


def test_queries_may_see_the_past_alone() -> None:
    query, key, value, _, kept = _inputs(jnp.float32, whole=True, dropped=True)
    mask = jnp.tril(jnp.ones((1, 1, _Q, _S), bool))
    inputs = (query, key, value, mask, kept)
    _assert_same(_gradients(attend, *inputs), _gradients(_plain, *inputs), 2e-6)


def test_a_row_that_may_attend_to_nothing_gets_zeros_and_gives_none() -> None:
    *asked, mask, kept = _inputs(jnp.float32, whole=False, dropped=False)
    attended, pull = jax.vjp(lambda *asked: attend(*asked, mask, kept), *asked)
    np.testing.assert_array_equal(attended[0], 0)
    np.testing.assert_array_equal(attended[1, 2], 0)
    for gradient in pull(jnp.ones_like(attended)):
        np.testing.assert_array_equal(gradient[0], 0)
        assert np.isfinite(gradient).all()
        assert (gradient[2] != 0).any()


def test_scores_of_any_size_are_stood() -> None:
    query, key, value, mask, kept = _inputs(jnp.float32, whole=False, dropped=False)
    inputs = (1e4 * query, key, value, mask, kept)
    found, expected = _gradients(attend, *inputs), _gradients(_plain, *inputs)
    # Scores so large are rounded by more than weights bear: gradients are finite, no more.
    np.testing.assert_allclose(found[0][1], expected[0][1], rtol=1e-5, atol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in found[1])


def test_the_weights_are_those_attended_with() -> None:
    x = jax.random.normal(jax.random.key(0), (_B, _S, 8))
    mask = jnp.arange(_S) < jnp.array([_S, 4, 0])[:, None]
    layer = MultiHeadAttention(num_heads=_H)
    params = layer.init(jax.random.key(1), x, x, mask, False)
    attended, weights = layer.apply(params, x, x, mask, False)
    query, key, values = (
        jnp.einsum("bsd,dhe->bshe", x, params["params"][name]["kernel"])
        for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bqhe,bshe->bhqs", query, key) / np.sqrt(4)
    np.testing.assert_allclose(
        weights[:2],
        jax.nn.softmax(jnp.where(mask[:2, None, None], scores[:2], -jnp.inf), axis=-1),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(weights[2], 0)
    mixed = jnp.einsum("bhqs,bshe->bqhe", weights, values)
    expected = jnp.einsum("bqhe,hed->bqd", mixed, params["params"]["out"]["kernel"])
    np.testing.assert_allclose(attended, expected, rtol=1e-5, atol=1e-5)


def test_scanned_layers_keep_the_weights_once() -> None:
    """What a scan keeps of each layer for the backward pass, counted."""
    inputs = _inputs(jnp.float32, whole=True, dropped=False)
    layers = 7

    def loss(query: jax.Array) -> jax.Array:
        def layer(query: jax.Array, _: None) -> tuple[jax.Array, None]:
            return attend(query, *inputs[1:]), None

        return jax.lax.scan(layer, query, None, length=layers)[0].sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(inputs[0])
    stacked = [
        variable.aval.shape
        for equation in jaxpr.eqns
        if equation.primitive.name == "scan"
        for variable in equation.outvars
        if variable.aval.shape[1:] == (_B, _H, _Q, _S)
    ]
    assert stacked == [(layers, _B, _H, _Q, _S)]
