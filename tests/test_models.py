"""Facts every model must keep, by one parametrised suite."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msa_jax import models, optim
from msa_jax import system as system_lib
from msa_jax.config import resolve
from msa_jax.errors import UserError
from msa_jax.models import late
from msa_jax.state import TrainState
from msa_jax.steps import Objective, make_train_step
from tests.conftest import random_batch

SYSTEMS: dict[str, dict[str, Any]] = {
    "unimodal": {"name": "unimodal"},
    "late": {"name": "late"},
    "late-soft": {"name": "late", "vote": "soft"},
    "early": {"name": "early", "classifier": {"hidden": (8,)}},
    "early-post-last": {"name": "early", "encoder": {"norm": "post", "pooling": "last"}},
    "early-learned": {"name": "early", "encoder": {"positions": "learned", "activation": "gelu"}},
    "early-attention-pool": {
        "name": "early",
        "encoder": {"num_layers": 0, "pooling": "attention", "positions": "none"},
    },
    "early-scanned": {"name": "early", "encoder": {"layers": "scanned", "remat": "everything"}},
    "attention": {"name": "attention", "num_heads": 2},
    "daf": {"name": "daf", "width": 6},
    "daf-uniform": {"name": "daf", "gate": "uniform", "activation": "linear"},
    "daf-learned": {"name": "daf", "gate": "learned", "activation": "relu"},
    "gated": {"name": "gated", "hidden": 8},
    "low_rank": {"name": "low_rank", "width": 6, "rank": 2},
    "tensor": {"name": "tensor", "width": 3},
    "tensor_pairs": {"name": "tensor_pairs", "width": 3},
    "early-convolution": {"name": "early", "encoder": {"kernel": 3}},
    "cross-modal": {
        "name": "cross_modal",
        "num_layers": 2,
        "num_self_layers": 1,
        "num_heads": 2,
        "encoder": {"num_layers": 0, "positions": "none", "norm": "post"},
    },
    "bottleneck": {"name": "bottleneck", "num_layers": 3, "fusion_layer": 1, "num_heads": 2},
    "translate": {"name": "translate", "num_heads": 2},
    "primary": {"name": "primary", "num_nodes": 3, "num_layers": 2, "num_heads": 2},
    "temporal": {"name": "temporal", "num_heads": 2},
    "temporal-early": {"name": "temporal", "fusion": "early", "num_heads": 2},
}
# Nothing before the pooling: each modality as wide as its features.
AS_THEY_ARE = {"kernel": 0, "num_layers": 0, "positions": "none", "norm": "post"}
SYSTEMS["early-as-they-are"] = {"name": "early", "encoder": AS_THEY_ARE}
VOTING = {"late", "tensor_pairs"}
# Systems that tell a weight of each modality: of A1 over time there is none.
WEIGHING = {"attention", "daf", "daf-uniform", "daf-learned", "gated", "primary", "temporal"}
SMALL = {"width": 8, "num_layers": 2, "num_heads": 2, "hidden": 16}


def build(system: str, **options: Any) -> Any:
    """A small model of that system and its modalities."""
    description = SYSTEMS[system]
    encoder = {**SMALL, **description.get("encoder", {})}
    if "encoder_dropout" in options:
        encoder["dropout"] = options.pop("encoder_dropout")
    description = {**description, "encoder": encoder}
    modalities = ("text",) if system == "unimodal" else ("text", "audio", "vision")
    options = {"modalities": modalities, "num_outputs": 3, **options}
    return models.build(description, **options)


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    return request.param


@functools.cache
def made(system: str, **options: Any) -> tuple[Any, Any]:
    """The model and fresh variables, made once for all tests."""
    model = build(system, **options)
    return model, model.init(jax.random.key(0), random_batch(), False)


@pytest.fixture
def model(system: str) -> Any:
    return made(system)[0]


@pytest.fixture
def variables(system: str) -> Any:
    return made(system)[1]


@pytest.fixture
def batch() -> Any:
    return random_batch()


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5)


def test_shapes_and_dtypes(model: Any, variables: Any, batch: Any, system: str) -> None:
    output = model.apply(variables, batch, False)
    assert output.logits.shape == (6, 3)
    assert output.logits.dtype == jnp.float32
    for logits in output.unimodal.values():
        assert logits.shape == (6, 3)
    for modality, pooled in output.pooled.items():
        own = batch[modality].shape[-1]
        assert pooled.shape == (6, own if system == "early-as-they-are" else 8)
    assert output.voted == (SYSTEMS[system]["name"] in VOTING)
    assert set(output.weights) == ({"text", "audio", "vision"} if system in WEIGHING else set())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("filler", [1e6, np.nan, -np.inf])
def test_padded_frames_change_nothing(
    model: Any, variables: Any, batch: Any, filler: float
) -> None:
    dirty = {
        name: np.where(batch[f"{name}_mask"][..., None], value, filler).astype(np.float32)
        if f"{name}_mask" in batch
        else value
        for name, value in batch.items()
    }
    clean = model.apply(variables, batch, False).logits
    np.testing.assert_array_equal(model.apply(variables, dirty, False).logits, clean)


def test_more_padding_changes_nothing(model: Any, variables: Any, batch: Any) -> None:
    longer = {
        name: np.pad(value, [(0, 0), (0, 4)] + [(0, 0)] * (value.ndim - 2))
        if value.ndim > 1
        else value
        for name, value in batch.items()
    }
    close(model.apply(variables, batch, False).logits, model.apply(variables, longer, False).logits)


def test_permuting_the_batch_permutes_the_predictions(
    model: Any, variables: Any, batch: Any
) -> None:
    order = np.random.default_rng(1).permutation(6)
    shuffled = {name: value[order] for name, value in batch.items()}
    close(
        model.apply(variables, batch, False).logits[order],
        model.apply(variables, shuffled, False).logits,
    )


@pytest.mark.parametrize("absent", [("audio",), ("text", "vision"), ("text", "audio", "vision")])
def test_absent_modalities_give_finite_outputs_and_gradients(
    model: Any, variables: Any, batch: Any, absent: tuple[str, ...]
) -> None:
    for modality in absent:
        batch[f"{modality}_mask"] = np.zeros_like(batch[f"{modality}_mask"])

    def total(variables: Any) -> Any:
        output = model.apply(variables, batch, True, rngs={"dropout": jax.random.key(1)})
        unimodal = sum((x**2).sum() for x in output.unimodal.values())
        return (output.logits**2).sum() + unimodal + output.aux_loss

    value, gradient = jax.value_and_grad(total)(variables)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("system", sorted(WEIGHING))
def test_an_absent_modality_is_ignored_for_its_example_alone(system: str, batch: Any) -> None:
    model, variables = made(system)
    without = {**batch, "audio_mask": batch["audio_mask"].copy()}
    without["audio_mask"][2] = False
    before, after = model.apply(variables, batch, False), model.apply(variables, without, False)
    others = [0, 1, 3, 4, 5]
    close(before.logits[np.array(others)], after.logits[np.array(others)])
    assert after.weights["audio"][2] == 0
    assert float(np.abs(before.logits[2] - after.logits[2]).max()) > 1e-4
    np.testing.assert_allclose(sum(after.weights.values()), 1.0, rtol=1e-5)


def test_dropout_is_random_in_training_alone(model: Any, variables: Any, batch: Any) -> None:
    outputs = [
        model.apply(variables, batch, train, rngs={"dropout": jax.random.key(key)}).pooled["text"]
        for train, key in ((False, 1), (False, 2), (True, 1), (True, 2))
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[2], outputs[3])


def test_bfloat16_keeps_parameters_and_outputs_float32(system: str, batch: Any) -> None:
    model, variables = made(system, dtype="bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    output = model.apply(variables, batch, False)
    assert output.logits.dtype == jnp.float32
    full = build(system).apply(variables, batch, False)
    # A vote may tip over; what it counts may not.
    for half, whole in zip(
        output.unimodal.values() if output.voted else [output.logits],
        full.unimodal.values() if full.voted else [full.logits],
        strict=True,
    ):
        np.testing.assert_allclose(jax.nn.softmax(half), jax.nn.softmax(whole), atol=0.08)
    assert output.pooled["text"].dtype == jnp.bfloat16


def test_vmaps_over_seeds(model: Any, batch: Any) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.vmap(lambda key: model.init(key, batch, False))(keys)
    logits = jax.vmap(lambda variables: model.apply(variables, batch, False).logits)(many)
    alone = model.apply(model.init(keys[1], batch, False), batch, False).logits
    close(logits[1], alone)


def test_frozen_encoders_get_no_gradient(system: str, batch: Any) -> None:
    model = build(system, frozen_encoders=True)
    variables = model.init(jax.random.key(0), batch, False)

    def total(variables: Any) -> Any:
        output = model.apply(variables, batch, True, rngs={"dropout": jax.random.key(1)})
        unimodal = sum((x**2).sum() for x in output.unimodal.values())
        return (output.logits**2).sum() + unimodal + output.aux_loss

    gradient = jax.grad(total)(variables)["params"]
    for name, tree in gradient.items():
        moved = any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))
        assert moved != name.startswith("encoders_"), name


@pytest.mark.parametrize("name", sorted(models.FUSIONS))
def test_a_fusion_of_one_modality_is_a_model(name: str, batch: Any) -> None:
    model = models.build({"name": name, "encoder": SMALL}, modalities=("text",), num_outputs=3)
    output = model.apply(model.init(jax.random.key(0), batch, False), batch, False)
    assert output.logits.shape == (6, 3)
    assert set(output.weights) == ({"text"} if name in WEIGHING else set())


def test_seeing_modalities_in_another_order_is_seen_by_name(batch: Any) -> None:
    shuffled = dict(reversed(batch.items()))
    model = build("early")
    variables = model.init(jax.random.key(0), batch, False)
    np.testing.assert_array_equal(
        model.apply(variables, batch, False).logits, model.apply(variables, shuffled, False).logits
    )


def _logits(*classes: list[float]) -> jax.Array:
    return jnp.log(jnp.array(classes))[:, None, :]


def test_majority_vote_and_its_tie_rule() -> None:
    all_vote = jnp.ones((3, 1), bool)
    two_agree = _logits([0.4, 0.35, 0.25], [0.4, 0.35, 0.25], [0.01, 0.01, 0.98])
    assert late.combine_classes(two_agree, all_vote, "majority").argmax() == 0
    assert late.combine_classes(two_agree, all_vote, "soft").argmax() == 2
    three_differ = _logits([0.40, 0.35, 0.25], [0.30, 0.40, 0.30], [0.05, 0.25, 0.70])
    chosen = late.combine_classes(three_differ, all_vote, "majority")
    assert chosen.argmax() == 2, "three different votes: the highest mean probability"
    np.testing.assert_allclose(jnp.exp(chosen).sum(), 1.0, rtol=1e-6)
    without_last = jnp.array([[True], [True], [False]])
    assert late.combine_classes(three_differ, without_last, "majority").argmax() == 1


def test_vote_on_scores_is_the_median_or_the_mean() -> None:
    scores = jnp.array([-1.0, 2.0, 5.0]).reshape(3, 1, 1)
    everyone, two = jnp.ones((3, 1), bool), jnp.array([[True], [True], [False]])
    assert late.combine_scores(scores, everyone, "majority")[0, 0] == 2.0
    assert late.combine_scores(scores, everyone, "soft")[0, 0] == 2.0
    assert late.combine_scores(scores, two, "majority")[0, 0] == 0.5


def test_late_classifiers_learn_independently(batch: Any) -> None:
    """A step of `late` moves the text classifier as a step of text alone would."""
    batch["audio_mask"][:3] = False
    config = resolve({"model": {"name": "late"}, "optimizer": {"clip_norm": 1e-3}})
    independent = system_lib.independent_parameters(config)
    joint = build("late", encoder_dropout=0.0)
    params = joint.init(jax.random.key(0), batch, False)["params"]
    assert set(independent) == set(params)

    def moved(model: Any, params: Any, independent: dict[str, str]) -> Any:
        optimizer = optim.build(config.optimizer, 10, independent=independent)
        state = TrainState(params, optimizer.init(params), jnp.int32(0), jax.random.key(0), params)
        step = make_train_step(model, optimizer, Objective(loss="cross_entropy"))
        return step(state, batch)[0].params

    text = {name: tree for name, tree in params.items() if name.endswith("_text")}
    alone = moved(build("unimodal", encoder_dropout=0.0), text, {})
    together = moved(joint, params, independent)
    for name, tree in alone.items():
        jax.tree.map(np.testing.assert_array_equal, tree, together[name])


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"name": "atention"}, "'atention'.*Did you mean 'attention'"),
        ({}, "config.model.name=''"),
        ({"name": "early", "encoder": {"widht": 3}}, "config.model.encoder.widht.*'width'"),
        ({"name": "early", "vote": "soft"}, "config.model.vote is not a field"),
        ({"name": "late", "vote": "sof"}, "config.model.vote='sof'.*'soft'"),
        ({"name": "early", "encoder": {"num_heads": 7}}, "num_heads=7 does not divide.*64"),
        ({"name": "attention", "num_heads": 5}, "config.model.num_heads=5 does not divide"),
        ({"name": "attention", "num_heads": "x"}, "expected int"),
        ({"name": "unimodal"}, "takes one modality"),
        ({"name": "daf", "gate": "dinamic"}, "config.model.gate='dinamic'.*'dynamic'"),
        ({"name": "gated", "temperature": 0}, "config.model.temperature=0.0.*at least 0.01"),
        ({"name": "low_rank", "rank": 0}, "config.model.rank=0.*at least 1"),
        ({"name": "early", "encoder": {"dropout": 1.0}}, "encoder.dropout=1.0.*at most 0.99"),
        ({"name": "early", "encoder": {"layers": "scaned"}}, "encoder.layers='scaned'.*'scanned'"),
        ({"name": "early", "encoder": {"kernel": 4}}, "encoder.kernel=4.*odd number"),
        (
            {"name": "attention", "encoder": {"kernel": 0}},
            "kernel=0.*name=attention.*such as early",
        ),
        ({"name": "daf", "encoder": {"kernel": 0}}, "num_layers=2 needs the first layer"),
        (
            {"name": "daf", "encoder": {"kernel": 0, "num_layers": 0}},
            "positions=sinusoidal needs the first layer.*use none",
        ),
        ({"name": "bottleneck", "num_bottlenecks": 0}, "num_bottlenecks=0.*at least 1"),
        ({"name": "primary", "temperature": 0.0}, "temperature=0.0.*at least 0.01"),
        ({"name": "early", "encoder": {"width": 0}}, "encoder.width=0.*at least 1"),
        ({"name": "early", "classifier": {"hidden": (8, 0)}}, "classifier.hidden=0.*at least 1"),
    ],
)
def test_refusals_name_the_field(description: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        models.build(description, modalities=("text", "audio"), num_outputs=3)


@pytest.mark.parametrize(
    "name", ["unimodal", "late", "early", "daf", "low_rank", "tensor", "tensor_pairs"]
)
def test_without_a_first_layer_frames_go_as_they_are(name: str, batch: Any) -> None:
    modalities = ("text",) if name == "unimodal" else ("text", "audio", "vision")
    description = {"name": name, "encoder": AS_THEY_ARE}
    model = models.build(description, modalities=modalities, num_outputs=3)
    variables = model.init(jax.random.key(0), batch, False)
    assert not any(part.startswith("encoders") for part in variables["params"])
    output = model.apply(variables, batch, False)
    assert output.logits.shape == (6, 3)
    for modality in modalities:
        frames, mask = batch[modality], batch[f"{modality}_mask"][..., None]
        mean = (frames * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        close(output.pooled[modality], mean)


def test_pairs_of_one_modality_are_refused() -> None:
    with pytest.raises(UserError, match=r"tensor_pairs pairs modalities.*names text alone"):
        models.build({"name": "tensor_pairs"}, modalities=("text",), num_outputs=3)
