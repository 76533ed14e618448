"""Models that see an utterance among those of its video."""

from typing import Any

import jax
import numpy as np
import pytest

from msa_jax import models
from msa_jax.errors import UserError
from msa_jax.models.context import Context
from tests.conftest import random_batch

VIDEOS, UTTERANCES = 3, 4
SIZES = np.array([4, 2, 3])
SMALL = {"width": 8, "num_layers": 1, "num_heads": 2, "hidden": 16}


def build(name: str, kind: str, **context: Any) -> Any:
    description = {
        "name": name,
        "encoder": SMALL,
        "context": {"kind": kind, "width": 8, "num_heads": 2, **context},
    }
    modalities = ("text",) if name == "unimodal" else ("text", "audio", "vision")
    return models.build(description, modalities=modalities, num_outputs=3)


def videos(seed: int = 0) -> Any:
    """A batch of videos: utterances after the last of a video are fillers."""
    batch = random_batch(size=VIDEOS * UTTERANCES, seed=seed)
    mask = np.arange(UTTERANCES) < SIZES[:, None]
    real = mask.reshape(-1)
    for modality in ("text", "audio", "vision"):
        batch[f"{modality}_mask"] &= real[:, None]
    return {**batch, "example_mask": real, "utterance_mask": mask}


@pytest.fixture(params=["recurrent", "transformer"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["unimodal", "late", "early", "attention", "daf", "tensor_pairs"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def outputs(model: Any, variables: Any, batch: Any) -> np.ndarray:
    return np.asarray(model.apply(variables, batch, False).logits).reshape(VIDEOS, UTTERANCES, -1)


def test_an_utterance_feels_its_own_video_alone(name: str, kind: str) -> None:
    model, batch = build(name, kind), videos()
    variables = model.init(jax.random.key(0), batch, False)
    before = outputs(model, variables, batch)
    changed = {**batch, "text": batch["text"].copy()}
    changed["text"][1] += 3.0  # the second utterance of the first video
    after = outputs(model, variables, changed)
    moved = np.abs(after - before).max(axis=-1)
    if name != "late":  # a majority may stay as it is
        assert (moved[0] > 1e-6).all()
    assert (moved[1:] == 0).all()


def test_fillers_change_nothing(name: str, kind: str) -> None:
    model, batch = build(name, kind), videos()
    variables = model.init(jax.random.key(0), batch, False)
    real = batch["utterance_mask"]
    dirty = {
        key: np.where(
            batch["example_mask"].reshape(-1, *[1] * (value.ndim - 1)), value, np.float32(1e6)
        )
        if key in ("text", "audio", "vision")
        else value
        for key, value in batch.items()
    }
    before, after = outputs(model, variables, batch), outputs(model, variables, dirty)
    np.testing.assert_array_equal(before[real], after[real])
    longer = {
        key: np.pad(
            value.reshape(VIDEOS, UTTERANCES, *value.shape[1:]),
            [(0, 0), (0, 2)] + [(0, 0)] * (value.ndim - 1),
        ).reshape(-1, *value.shape[1:])
        for key, value in batch.items()
        if key != "utterance_mask"
    }
    longer["utterance_mask"] = np.pad(real, [(0, 0), (0, 2)])
    more = np.asarray(model.apply(variables, longer, False).logits)
    more = more.reshape(VIDEOS, UTTERANCES + 2, -1)[:, :UTTERANCES]
    np.testing.assert_allclose(before[real], more[real], atol=2e-6, rtol=1e-5)


def test_the_order_of_utterances_matters(kind: str) -> None:
    model, batch = build("early", kind), videos()
    variables = model.init(jax.random.key(0), batch, False)
    backward = np.arange(VIDEOS * UTTERANCES)
    backward[:UTTERANCES] = backward[:UTTERANCES][::-1]
    turned = {k: v if k == "utterance_mask" else v[backward] for k, v in batch.items()}
    before, after = outputs(model, variables, batch), outputs(model, variables, turned)
    assert np.abs(before[0] - after[0][::-1]).max() > 1e-5
    np.testing.assert_array_equal(before[1:], after[1:])


def test_gradients_are_finite_with_nothing_present(name: str, kind: str) -> None:
    model, batch = build(name, kind), videos()
    variables = model.init(jax.random.key(0), batch, False)
    for modality in ("text", "audio", "vision"):
        batch[f"{modality}_mask"][:] = False
    batch["utterance_mask"][1] = False

    def total(variables: Any) -> Any:
        output = model.apply(variables, batch, True, rngs={"dropout": jax.random.key(1)})
        return (output.logits**2).sum() + sum((x**2).sum() for x in output.unimodal.values())

    value, gradient = jax.value_and_grad(total)(variables)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_several_layers_a_residual_and_bfloat16(kind: str) -> None:
    model = models.build(
        {
            "name": "early",
            "encoder": SMALL,
            "context": {"kind": kind, "width": 8, "num_layers": 2, "residual": True},
        },
        modalities=("text",),
        num_outputs=1,
        dtype="bfloat16",
    )
    batch = videos()
    variables = model.init(jax.random.key(0), batch, False)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(variables))
    logits = model.apply(variables, batch, False).logits
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("residual", [False, True])
def test_every_parameter_is_used(kind: str, residual: bool) -> None:
    layer = Context(kind=kind, width=8, num_heads=2, num_layers=2, residual=residual)
    features = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    mask = np.ones((2, 3), bool)
    variables = layer.init(jax.random.key(0), features, mask, False)
    gradient = jax.grad(lambda v: (layer.apply(v, features, mask, False) ** 3).sum())(variables)
    # A softmax does not feel what is added to all its scores.
    unfelt = {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.abs(leaf).max() > 1e-5 and "'key']['bias'" not in jax.tree_util.keystr(path)
    }
    assert not unfelt


def test_dropout_falls_between_recurrent_layers() -> None:
    """On features of zeros, of which the first dropout leaves as much."""

    def outputs_of(num_layers: int) -> np.ndarray:
        layer = Context(kind="recurrent", width=8, num_layers=num_layers, dropout=0.5)
        features, mask = np.zeros((6, 5), np.float32), np.ones((2, 3), bool)
        shapes = layer.init(jax.random.key(0), features, mask, False)
        ones = jax.tree.map(np.ones_like, shapes)
        draws = [
            layer.apply(ones, features, mask, True, rngs={"dropout": jax.random.key(n)})
            for n in range(4)
        ]
        return np.std(draws, axis=0)

    assert (outputs_of(1) == 0).all()
    assert outputs_of(2).max() > 1e-3


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ({"kind": "recurent"}, "context.kind='recurent'.*'recurrent'"),
        ({"kind": "recurrent", "width": 7}, "context.width=7: expected an even number"),
        ({"kind": "transformer", "width": 8, "num_heads": 3}, "num_heads=3 does not divide"),
        ({"knid": "recurrent"}, "context.knid is not a field.*'kind'"),
    ],
)
def test_refusals_name_the_field(context: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        models.build({"name": "early", "context": context}, modalities=("text",), num_outputs=3)
