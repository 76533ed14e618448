"""Where modalities may meet in MBT, and where they may not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msa_jax import models
from msa_jax.errors import UserError
from msa_jax.models.bottleneck import mean_of_present
from tests.conftest import random_batch


def _model(**fields: Any) -> Any:
    encoder = {"width": 8, "num_layers": 0, "num_heads": 2}
    description = {"name": "bottleneck", "num_heads": 2, "num_layers": 2, **fields}
    return models.build(
        {**description, "encoder": encoder}, modalities=("text", "audio"), num_outputs=3
    )


@pytest.mark.parametrize(("fusion_layer", "interact"), [(0, True), (1, False), (2, False)])
def test_without_two_shared_layers_modalities_add_up(fusion_layer: int, interact: bool) -> None:
    """The mean over modalities is linear in them: what one layer writes, the next has to read."""
    model, batch = _model(fusion_layer=fusion_layer), random_batch()
    variables = model.init(jax.random.key(0), batch, False)

    def logits(text: float, audio: float) -> np.ndarray:
        changed = {**batch, "text": batch["text"] + text, "audio": batch["audio"] - audio}
        return np.asarray(model.apply(variables, changed, False).logits)

    mixed = logits(1, 2) - logits(0, 2) - logits(1, 0) + logits(0, 0)
    assert (np.abs(mixed).max() > 1e-4) == interact


def test_the_mean_leaves_out_what_is_absent() -> None:
    states = jnp.arange(12.0).reshape(2, 3, 2)
    present = jnp.array([[True, False, True], [False] * 3])
    np.testing.assert_array_equal(mean_of_present(states, present), [[2, 3], [0, 0]])


def test_an_absent_modality_writes_nothing_to_the_bottleneck() -> None:
    model, batch = _model(fusion_layer=0), random_batch()
    batch["audio_mask"][:] = False
    variables = model.init(jax.random.key(0), batch, False)
    shifted = jax.tree.map(lambda x: x, variables)
    audio = shifted["params"]["fusion"]["audio_layer_0"]["contract"]
    audio["bias"] = audio["bias"] + 3
    before, after = (model.apply(each, batch, False).logits for each in (variables, shifted))
    np.testing.assert_array_equal(before, after)


def test_a_fusion_layer_above_all_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"fusion_layer=3 lies above config.model.num_layers=2"):
        _model(fusion_layer=3)
