"""Losses, optimiser, state and steps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msa_jax import config, losses, models, optim, sharding, steps
from msa_jax import state as state_lib
from msa_jax.population import Population
from tests.conftest import random_batch

ENCODER = {"width": 8, "num_layers": 1, "num_heads": 2, "hidden": 16, "dropout": 0.0}
OBJECTIVE = steps.Objective(loss="cross_entropy")


def _model(dropout: float = 0.0, num_outputs: int = 3) -> Any:
    return models.build(
        {"name": "early", "encoder": {**ENCODER, "dropout": dropout}},
        modalities=("text", "audio"),
        num_outputs=num_outputs,
    )


def _state(model: Any, optimizer: Any, seed: int = 0) -> state_lib.TrainState:
    return state_lib.initialize(model, optimizer, random_batch(), jnp.uint32(seed))


def test_losses_follow_their_definitions() -> None:
    logits = jnp.array([[1.0], [-4.0]])
    batch = {"score": jnp.array([0.5, 0.0])}
    np.testing.assert_allclose(losses.per_example(logits, batch, "l1"), [0.5, 4.0])
    np.testing.assert_allclose(losses.per_example(logits, batch, "l2"), [0.25, 16.0])
    np.testing.assert_allclose(losses.per_example(logits, batch, "huber"), [0.125, 3.5])
    batch = {"label": jnp.array([1])}
    loss = losses.per_example(jnp.log(jnp.array([[0.2, 0.5, 0.3]])), batch, "cross_entropy")
    np.testing.assert_allclose(loss, -np.log(0.5), rtol=1e-6)


def test_padded_examples_have_no_say() -> None:
    batch = random_batch()
    batch["example_mask"] = np.array([True, True, False, True, False, True])
    changed = {**batch, "score": batch["score"].copy(), "label": batch["label"].copy()}
    changed["label"][2], changed["text"] = 0, batch["text"].copy()
    changed["text"][[2, 4]] = 99.0
    model, sgd = _model(), optax.sgd(0.1)
    step = steps.make_train_step(model, sgd, OBJECTIVE)
    first, second = (step(_state(model, sgd), b)[0].params for b in (batch, changed))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_balanced_weights() -> None:
    weights = losses.balanced_class_weights(np.array([0, 0, 0, 2]), 3)
    np.testing.assert_allclose(weights, [4 / 9, 0, 4 / 3])
    batch = {"example_mask": jnp.ones(4, bool), "label": jnp.array([0, 0, 0, 2])}
    each = losses.example_weights(batch, weights)
    np.testing.assert_allclose(each, [1 / 6, 1 / 6, 1 / 6, 1 / 2], rtol=1e-6)


def test_augmentation_is_drawn_for_each_seed_and_step() -> None:
    model, sgd, batch = _model(), optax.sgd(0.0), random_batch()
    state = _state(model, sgd)

    def losses_of(augmentation: config.Augment, seed: int = 0) -> list[float]:
        step = jax.jit(steps.make_train_step(model, sgd, OBJECTIVE, 1, augmentation))
        after, found = dataclasses.replace(state, rng=jax.random.key(seed)), []
        for _ in range(3):
            after, found_now = step(after, batch)
            found.append(float(found_now["loss"]))
        return found

    plain = losses_of(config.Augment())
    assert len(set(plain)) == 1, "nothing else is random here"
    for augmentation in (
        config.Augment(noise=0.5),
        config.Augment(frame_dropout=0.5),
        config.Augment(modality_dropout=0.7),
    ):
        first = losses_of(augmentation)
        assert first == losses_of(augmentation)
        assert len(set(first)) == 3
        assert first != losses_of(augmentation, seed=1)
        assert first[0] != plain[0]


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_accumulated_parts_add_up_to_the_batch(parts: int) -> None:
    model, sgd, batch = _model(), optax.sgd(0.1), random_batch()
    batch["example_mask"][1] = False
    objective = steps.Objective(loss="cross_entropy", class_weights=(1.0, 0.5, 2.0))
    whole, whole_metrics = steps.make_train_step(model, sgd, objective)(_state(model, sgd), batch)
    step = steps.make_train_step(model, sgd, objective, accumulate=parts)
    split, split_metrics = step(_state(model, sgd), batch)
    for a, b in ((whole.params, split.params), (whole_metrics, split_metrics)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_a_model_s_own_loss_counts_as_much_in_parts_with_fillers() -> None:
    encoder = {"width": 8, "num_layers": 0, "num_heads": 2, "hidden": 8, "dropout": 0.0}
    described = {"name": "translate", "num_heads": 2, "dropout": 0.0, "encoder": encoder}
    model, silent = (
        models.build(
            {**described, "translation_weight": weight}, modalities=("text", "audio"), num_outputs=3
        )
        for weight in (0.1, 0.0)
    )
    batch, sgd = random_batch(), optax.sgd(0.1)
    for name in ("text_mask", "audio_mask", "example_mask"):
        batch[name][1:] = False  # one example, and what fills the batch up
    whole, parts = (
        steps.make_train_step(model, sgd, OBJECTIVE, accumulate=count)(_state(model, sgd), batch)[0]
        for count in (1, 3)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params, parts.params
    )
    without = steps.make_train_step(silent, sgd, OBJECTIVE)(_state(model, sgd), batch)[0]
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), whole.params, without.params)
    assert max(jax.tree.leaves(moved)) > 1e-4, "the model's own loss is part of the step"


def test_the_step_compiles_once_and_donates_the_state() -> None:
    mesh = sharding.build_mesh(config.Mesh())
    model, optimizer = _model(dropout=0.1), optim.build(config.Optimizer(), 100)
    with jax.set_mesh(mesh):
        batch = jax.device_put(random_batch(), sharding.over_data(mesh))
        alone = Population(1, mesh)
        state = state_lib.create(model, optimizer, batch, [0], alone)
        made = steps.make_train_step(model, optimizer, OBJECTIVE)
        step = steps.jit_train_step(lambda _: made, state, {}, alone)
        before = state
        for seed in range(3):
            batch = jax.device_put(random_batch(seed=seed), sharding.over_data(mesh))
            state, _ = step(state, batch)
    assert step._cache_size() == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
    assert int(state.step) == 3


def test_dropout_depends_on_the_step_alone() -> None:
    model, sgd, batch = _model(dropout=0.5), optax.sgd(0.0), random_batch()
    step = steps.make_train_step(model, sgd, OBJECTIVE)
    state = _state(model, sgd)
    state, first = step(state, batch)
    state, second = step(state, batch)
    assert first["loss"] != second["loss"]
    rewound = dataclasses.replace(state, step=jnp.int32(0))
    assert step(rewound, batch)[1]["loss"] == first["loss"]


def test_seeds_give_other_weights() -> None:
    model, sgd = _model(), optax.sgd(0.1)
    kernels = [_state(model, sgd, s).params["classifier"]["logits"]["kernel"] for s in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_training_learns_a_plain_rule() -> None:
    model = _model(num_outputs=1)
    optimizer = optim.build(config.Optimizer(learning_rate=1e-2), 300)
    objective = steps.Objective(loss="l1")
    step = jax.jit(steps.make_train_step(model, optimizer, objective))
    batch = random_batch(size=64)
    batch["score"] = batch["audio"][:, 0, 0]
    state = state_lib.initialize(model, optimizer, batch, jnp.uint32(0))
    first = None
    for _ in range(300):
        state, result = step(state, batch)
        first = first or float(result["loss"])
    assert float(result["mae"]) < 0.2 * first


def test_schedules() -> None:
    def rates(**fields: Any) -> list[float]:
        rate = optim.schedule(config.Optimizer(learning_rate=1.0, **fields), 100)
        return [float(rate(step)) for step in (0, 5, 10, 55, 100)]

    assert rates() == [1.0] * 5
    np.testing.assert_allclose(
        rates(warmup_steps=10, schedule="linear"), [0, 0.5, 1, 0.5, 0], atol=1e-6
    )
    np.testing.assert_allclose(
        rates(warmup_steps=10, schedule="cosine"), [0, 0.5, 1, 0.5, 0], atol=1e-6
    )


def test_frozen_parameters_stay_under_weight_decay() -> None:
    chosen = config.Optimizer(name="adamw", weight_decay=0.1)
    params = {"encoders_text": {"kernel": jnp.ones(3)}, "classifier": {"kernel": jnp.ones(3)}}
    optimizer = optim.build(chosen, 10, frozen=("encoders_text",))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert not updates["encoders_text"]["kernel"].any()
    assert updates["classifier"]["kernel"].all()


def test_weight_decay_spares_biases_and_norms() -> None:
    chosen = config.Optimizer(name="adamw", weight_decay=0.1)
    params = {"a": {"kernel": jnp.ones(3), "bias": jnp.ones(3), "scale": jnp.ones(3)}}
    optimizer = optim.build(chosen, 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert updates["a"]["kernel"].all()
    assert not updates["a"]["bias"].any()
    assert not updates["a"]["scale"].any()
