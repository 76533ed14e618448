"""What the translation towards text sees, and what it costs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msa_jax import models
from msa_jax.models.contract import Encoded
from msa_jax.models.translate import translation_loss
from tests.conftest import random_batch


def _model(modalities: tuple[str, ...] = ("text", "audio"), **fields: Any) -> Any:
    encoder = {"width": 8, "num_layers": 1, "num_heads": 2, "hidden": 8}
    description = {"name": "translate", "num_heads": 2, "encoder": encoder, **fields}
    return models.build(description, modalities=modalities, num_outputs=3)


def test_the_loss_leaves_out_padding_and_absence() -> None:
    tokens, mask = jnp.zeros((4, 2, 3)), jnp.array([[1, 1], [1, 0], [1, 1], [0, 0]], bool)
    primary = Encoded(tokens=tokens, pooled=tokens[:, 0], mask=mask)
    guess = jnp.ones((4, 2, 3)).at[:, 1].set(3.0)
    present = jnp.array([True, True, False, True])
    # Row 0: (1 + 9) / 2; row 1: its one real step; rows 2 and 3 lack a modality.
    assert float(translation_loss(guess, primary, present)) == pytest.approx((5 + 1) / 2)
    assert float(translation_loss(guess, primary, jnp.zeros(4, bool))) == 0.0


def test_the_loss_moves_the_translation_and_not_the_text() -> None:
    model, batch = _model(translation_weight=1.0), random_batch()
    variables = model.init(jax.random.key(0), batch, False)
    gradient = jax.grad(lambda v: model.apply(v, batch, False).aux_loss)(variables)["params"]

    def moved(tree: Any) -> bool:
        return any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))

    assert not moved(gradient["encoders_text"])
    assert moved(gradient["encoders_audio"])
    assert not moved(gradient["fusion"]["audio_reinforcement_0"])
    assert not moved(gradient["classifier"])


def test_text_does_not_leak_into_its_own_translation() -> None:
    """All text can do to the translation is to say how many steps it has."""
    model, batch = _model(), random_batch()
    other = {**batch, "text": batch["text"] + 1}
    variables = model.init(jax.random.key(0), batch, False)
    found = [
        model.apply(variables, each, False, capture_intermediates=True)[1]["intermediates"]
        for each in (batch, other)
    ]
    guesses = [each["fusion"]["audio_translation"]["__call__"][0] for each in found]
    np.testing.assert_array_equal(*guesses)
    assert not np.array_equal(*[each["fusion"]["join"]["__call__"][0] for each in found])


def test_without_text_the_voice_is_still_heard() -> None:
    model, batch = _model(), random_batch()
    batch["text_mask"][0] = False
    variables = model.init(jax.random.key(0), batch, False)
    louder = {**batch, "audio": batch["audio"] * 2}
    before, after = model.apply(variables, batch, False), model.apply(variables, louder, False)
    assert float(np.abs(before.logits[0] - after.logits[0]).max()) > 1e-4


def test_text_alone_has_nothing_to_translate() -> None:
    model, batch = _model(("text",)), random_batch()
    output = model.apply(model.init(jax.random.key(0), batch, False), batch, False)
    assert float(output.aux_loss) == 0.0
    assert np.isfinite(output.logits).all()
