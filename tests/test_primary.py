"""How an utterance chooses its primary modality, and the loss that comes with it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msa_jax import models
from msa_jax.models.primary import info_nce
from tests.conftest import random_batch


def _model(modalities: tuple[str, ...] = ("text", "audio", "vision"), **fields: Any) -> Any:
    encoder = {"width": 8, "num_layers": 0, "num_heads": 2}
    description = {"name": "primary", "num_heads": 2, "num_nodes": 2, "encoder": encoder, **fields}
    return models.build(description, modalities=modalities, num_outputs=3)


def test_info_nce_by_hand() -> None:
    guess = jnp.array([[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
    target = jnp.array([[3.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    present = jnp.array([True, True, False])
    expected = np.log(1 + np.exp(-1 / 0.5))
    assert float(info_nce(guess, target, present, 0.5)) == pytest.approx(expected, rel=1e-5)
    assert float(info_nce(guess, target, jnp.zeros(3, bool), 0.5)) == 0.0
    gradient = jax.grad(lambda x: info_nce(x, x, present, 0.5))(jnp.zeros((3, 2)))
    assert np.isfinite(gradient).all()


def test_weights_are_those_of_the_modalities_present() -> None:
    model, batch = _model(), random_batch()
    batch["text_mask"][0] = False
    batch["text_mask"][1] = batch["audio_mask"][1] = False
    output = model.apply(model.init(jax.random.key(0), batch, False), batch, False)
    weights = np.stack(list(output.weights.values()), axis=1)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    assert weights[0, 0] == 0
    np.testing.assert_array_equal(weights[1], [0, 0, 1])


@pytest.mark.parametrize("favourite", range(3))
def test_the_heaviest_modality_is_the_primary(favourite: int) -> None:
    """With no layer above, features are the primary's own nodes: no other modality moves them."""
    model, batch = _model(num_layers=0), random_batch()
    variables = model.init(jax.random.key(0), batch, False)
    select = variables["params"]["fusion"]["select"]
    select["bias"] = select["bias"].at[favourite].set(50.0)
    before = model.apply(variables, batch, False).logits
    for i, m in enumerate(("text", "audio", "vision")):
        after = model.apply(variables, {**batch, m: -batch[m]}, False).logits
        assert np.allclose(before, after, atol=1e-5) == (i != favourite)


def test_the_selector_learns_from_the_task() -> None:
    model, batch = _model(contrast_weight=0.0), random_batch()
    variables = model.init(jax.random.key(0), batch, False)
    gradient = jax.grad(lambda v: (model.apply(v, batch, False).logits ** 2).sum())(variables)
    assert float(np.abs(gradient["params"]["fusion"]["select"]["kernel"]).max()) > 1e-6


@pytest.mark.parametrize("modalities", [("text",), ("audio", "text")])
def test_fewer_modalities(modalities: tuple[str, ...]) -> None:
    model, batch = _model(modalities), random_batch()
    output = model.apply(model.init(jax.random.key(0), batch, False), batch, False)
    assert set(output.weights) == set(modalities)
    assert np.isfinite(output.logits).all()


def test_padded_examples_do_not_change_the_contrast() -> None:
    model, batch = _model(), random_batch()
    variables = model.init(jax.random.key(0), batch, False)
    padded = {k: np.concatenate([v, np.zeros_like(v[:2])]) for k, v in batch.items()}
    before, after = (model.apply(variables, each, False).aux_loss for each in (batch, padded))
    assert float(before) == pytest.approx(float(after), rel=1e-5)
    assert float(before) > 0
