"""Fusion over time: aligned frames, single frames, gaps, and what is refused."""

from typing import Any

import jax
import numpy as np
import pytest

from msa_jax import models, system
from msa_jax.config import resolve
from msa_jax.errors import UserError
from tests.conftest import random_batch

MODALITIES = ("text", "audio", "vision")


def _model(**fields: Any) -> Any:
    encoder = {"width": 8, "num_layers": 1, "num_heads": 2, "hidden": 8}
    description = {"name": "temporal", "num_heads": 2, "alignment": "frames", "encoder": encoder}
    return models.build({**description, **fields}, modalities=MODALITIES, num_outputs=3)


def _aligned(vision: int = 6) -> Any:
    batch = random_batch({"text": 6, "audio": 6, "vision": vision})
    batch["audio_mask"] = batch["text_mask"]
    return batch


def _padded(batch: Any, modalities: tuple[str, ...]) -> Any:
    names = [n for m in modalities for n in (m, f"{m}_mask")]
    return batch | {
        n: np.pad(batch[n], [(0, 0), (0, 3)] + [(0, 0)] * (batch[n].ndim - 2)) for n in names
    }


@pytest.mark.parametrize("fusion", ["early", "attention"])
@pytest.mark.parametrize("vision", [6, 1])
def test_padding_aligned_frames_changes_nothing(fusion: str, vision: int) -> None:
    model, batch = _model(fusion=fusion), _aligned(vision)
    batch["text_mask"][0] = batch["audio_mask"][0] = False
    batch["vision_mask"][1] = False
    longer = _padded(batch, MODALITIES if vision > 1 else ("text", "audio"))
    variables = model.init(jax.random.key(0), batch, False)
    before, after = (model.apply(variables, each, False) for each in (batch, longer))
    np.testing.assert_allclose(before.logits, after.logits, atol=1e-5)
    for m, weight in before.weights.items():
        np.testing.assert_allclose(weight, after.weights[m], atol=1e-5)


def test_weights_sum_to_one_and_are_zero_for_the_absent() -> None:
    model, batch = _model(), _aligned()
    batch["vision_mask"][1] = False
    output = model.apply(model.init(jax.random.key(0), batch, False), batch, False)
    np.testing.assert_allclose(sum(output.weights.values()), 1, rtol=1e-5)
    assert output.weights["vision"][1] == 0


def test_frames_meet_at_their_own_step() -> None:
    """Swapping two audio frames matters when encoders and layers above see no order."""
    encoder = {"width": 8, "num_layers": 0, "num_heads": 2, "positions": "none"}
    model, batch = _model(encoder=encoder, num_layers=0), _aligned()
    for m in MODALITIES:
        batch[f"{m}_mask"][:] = True
    variables = model.init(jax.random.key(0), batch, False)

    def logits(order: list[int], modalities: tuple[str, ...]) -> np.ndarray:
        moved = {**batch, **{m: batch[m][:, order] for m in modalities}}
        return np.asarray(model.apply(variables, moved, False).logits)

    order = [1, 0, 2, 3, 4, 5]
    same = logits(list(range(6)), ())
    np.testing.assert_allclose(logits(order, MODALITIES), same, atol=1e-5)
    assert np.abs(logits(order, ("audio",)) - same).max() > 1e-4


@pytest.mark.parametrize("alignment", ["frames", "attention"])
def test_all_may_be_absent(alignment: str) -> None:
    model, batch = _model(alignment=alignment), _aligned()
    for m in MODALITIES:
        batch[f"{m}_mask"][:] = False
    variables = model.init(jax.random.key(0), batch, False)

    def total(variables: Any) -> jax.Array:
        return (model.apply(variables, batch, False).logits ** 2).sum()

    value, gradient = jax.value_and_grad(total)(variables)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_without_the_first_modality_the_next_one_gives_the_steps() -> None:
    model = _model(alignment="attention")
    batch = random_batch({"text": 3, "audio": 6, "vision": 4})
    batch["text_mask"][0] = False
    batch["audio_mask"][0] = True
    variables = model.init(jax.random.key(0), batch, False)
    other = {**batch, "audio": batch["audio"].copy()}
    other["audio"][0, 5] += 1  # beyond the text's longest
    before, after = (model.apply(variables, each, False).logits for each in (batch, other))
    assert float(np.abs(before[0] - after[0]).max()) > 1e-5


def test_unaligned_data_are_refused_by_name() -> None:
    config = resolve({"model": {"name": "temporal"}})
    lengths = {"text": np.array([6, 5, 4]), "audio": np.array([6, 0, 4]), "vision": np.ones(3, int)}
    system.check_aligned(config, lengths)
    lengths["audio"][2] = 3
    with pytest.raises(UserError, match=r"row 2 has 4 frames of text and 3 of audio.*=attention"):
        system.check_aligned(config, lengths)
    system.check_aligned(resolve({"model": {"name": "early"}}), lengths)


def test_a_modality_absent_from_the_longest_utterances_may_be_padded_to_less() -> None:
    model, batch = _model(), _aligned()
    batch["vision_mask"] = batch["text_mask"].copy()
    batch["vision_mask"][batch["text_mask"].sum(axis=1) > 4] = False
    assert batch["vision_mask"].any()
    variables = model.init(jax.random.key(0), batch, False)
    shorter = batch | {name: batch[name][:, :4] for name in ("vision", "vision_mask")}
    whole, cut = (model.apply(variables, each, False).logits for each in (batch, shorter))
    np.testing.assert_allclose(whole, cut, atol=2e-6, rtol=1e-5)
