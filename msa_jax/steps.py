"""One training step and one evaluation step: pure functions, and how they are jitted."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from msa_jax import augment, losses, sharding
from msa_jax.config import Augment
from msa_jax.models.contract import Output
from msa_jax.population import Population
from msa_jax.state import TrainState

Batch = Mapping[str, jax.Array]
StepMetrics = dict[str, jax.Array]
JittedTrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
# (state, what batches are gathered from, rows [n, ...], buckets [n], how many of the n steps)
JittedTrainLoop = Callable[
    [TrainState, Any, np.ndarray, np.ndarray, int], tuple[TrainState, StepMetrics]
]
Gather = Callable[[Any, jax.Array], Batch]
EvalStep = Callable[[Any, Batch], "Predictions"]

# Part i of a batch draws dropout from `split(rng, accumulate)[i]`, which is `fold_in(rng, i)`: this
# number is no part's.
_AUGMENTATION = 2**32 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised: see `msa_jax.config.Task` for the fields; no class weights means equal."""

    loss: str
    unimodal_weight: float = 1.0
    class_weights: tuple[float, ...] = ()


@flax.struct.dataclass
class Predictions:
    """What evaluation keeps of a batch or, joined by `evaluate.predict`, of a split.

    Attributes:
      outputs: [B, K] class probabilities; for regression [B, 1] the score.
      losses: [B] of each example.
      weights: `{modality: [B]}` where the model weighs modalities.
    """

    outputs: jax.Array
    losses: jax.Array
    weights: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A pure step, (state, batch) to (state, metrics), for jit, vmap or compiling ahead.

    Attributes:
      gradients: (state, batch) to the gradients and the metrics of the forward pass. Of the state
        it needs `params`, `step` and `rng`.
      update: (state, gradients) to the state after them, and the norm of the gradients. There are
        no products of matrices in it: many members' updates are one, over longer arrays.
    """

    gradients: Callable[[TrainState, Batch], tuple[Any, StepMetrics]]
    update: Callable[[TrainState, Any], tuple[TrainState, jax.Array]]

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        """Both, one after the other."""
        grads, plain = self.gradients(state, batch)
        state, norm = self.update(state, grads)
        return state, {**plain, "grad_norm": norm}


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    accumulate: int = 1,
    augmentation: Augment = Augment(),  # noqa: B008 (frozen)
) -> TrainStep:
    """The step that lowers `objective`.

    Args:
      model: called as `apply({"params": ...}, batch, train, rngs) -> Output`.
      optimizer: from gradients to updates.
      objective: what is minimised.
      accumulate: equal parts of the batch, taken one after the other; the gradient is the whole
        batch's (but for the dropout drawn).
      augmentation: what batches lose or gain first, drawn from (seed, step).

    Returns:
      A step whose metrics are float32 scalars: `loss`, `grad_norm`, and `accuracy` or `mae`. They
      are those of the forward pass that the update took, dropout included; but for `grad_norm`
      they leave class weights and `aux_loss` out, as evaluation does.
    """
    plain_metric = "accuracy" if objective.loss == "cross_entropy" else "mae"

    def loss_of(
        params: Any, part: Batch, weights: jax.Array, shares: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        output = _apply(model, params, part, train=True, rngs={"dropout": rng})
        each = losses.example_losses(output, part, objective.loss, objective.unimodal_weight)
        if plain_metric == "accuracy":
            plain = output.logits.argmax(axis=-1) == part["label"]
        else:
            plain = jnp.abs(output.score - part["score"])
        loss = jnp.sum(weights * each) + output.aux_loss * jnp.sum(shares)
        return loss, {"loss": jnp.sum(shares * each), plain_metric: jnp.sum(shares * plain)}

    def gradients(state: TrainState, batch: Batch) -> tuple[Any, StepMetrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        batch = augment.corrupt(batch, jax.random.fold_in(rng, _AUGMENTATION), augmentation)
        rows = (
            dict(batch),
            losses.example_weights(batch, objective.class_weights),
            losses.example_weights(batch, ()),
        )
        gradient = jax.grad(loss_of, has_aux=True)
        if accumulate == 1:
            return gradient(state.params, *rows, rng)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(state.params, *part)), None

        parts = jax.tree.map(lambda x: _split_rows(x, accumulate), rows)
        zero_metrics = {"loss": jnp.zeros(()), plain_metric: jnp.zeros(())}
        zero = (jax.tree.map(jnp.zeros_like, state.params), zero_metrics)
        total, _ = jax.lax.scan(add, zero, (*parts, jax.random.split(rng, accumulate)))
        return total

    def update(state: TrainState, grads: Any) -> tuple[TrainState, jax.Array]:
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = dataclasses.replace(state, params=params, opt_state=opt_state, step=state.step + 1)
        return state, optax.tree.norm(grads)

    return TrainStep(gradients, update)


def make_eval_step(model: nn.Module, objective: Objective) -> EvalStep:
    """The pure evaluation: (params, batch) to `Predictions`, without dropout."""

    def eval_step(params: Any, batch: Batch) -> Predictions:
        output = _apply(model, params, batch, train=False)
        regression = objective.loss != "cross_entropy"
        return Predictions(
            outputs=output.logits if regression else jax.nn.softmax(output.logits),
            losses=losses.example_losses(output, batch, objective.loss, objective.unimodal_weight),
            weights=output.weights,
        )

    return eval_step


def jit_train_step(
    make: Callable[[Mapping[str, jax.Array]], TrainStep],
    state: TrainState,
    values: Mapping[str, jax.Array],
    population: Population,
) -> JittedTrainStep:
    """Compiles for `state`'s shardings and rows spread over the data axis; donates the state.

    Args:
      make: a member's step, given the values of the fields in which members differ.
      state: of the whole population.
      values: `{dotted name: [S]}` of those fields; empty where members differ by seed alone.
      population: says how members share the program.

    Returns:
      A step whose metrics are `{name: [1]}`, or `[S, 1]` of a population, as a loop's of one step.
    """
    places, rows, replicated = _places(state, population)
    gradients, update = _of_population(make, values, population)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        grads, plain = gradients(state, batch)
        state, norm = update(state, grads)
        return state, {name: x[..., None] for name, x in {**plain, "grad_norm": norm}.items()}

    return jax.jit(
        train_step,
        in_shardings=(places, rows),
        out_shardings=(places, replicated),
        donate_argnums=0,
        compiler_options=_compiler_options(population),
    )


def jit_train_loop(
    make: Callable[[Mapping[str, jax.Array]], TrainStep],
    state: TrainState,
    values: Mapping[str, jax.Array],
    population: Population,
    gathers: Sequence[Gather],
) -> JittedTrainLoop:
    """Compiles a loop over steps, each of which gathers its own batch; donates the state.

    One program holds the step of every shape, and takes any number of steps up to n: so the host
    is asked once for many, and whatever they are cut into, each computes the same bits.

    Args:
      make, state, values, population: as for `jit_train_step`.
      gathers: of each bucket, the batch of some rows. A batch may need fewer rows than are given.

    Returns:
      A loop whose metrics are `{name: [n]}`, or `[S, n]`; those of steps not taken are 0.
    """
    places, spread, replicated = _places(state, population)
    everywhere = sharding.replicated(population.mesh)
    gradients, update = _of_population(make, values, population)

    def train_loop(
        state: TrainState, held: Any, rows: jax.Array, buckets: jax.Array, count: jax.Array
    ) -> tuple[TrainState, StepMetrics]:
        def of(gather: Gather) -> Callable[[TrainState, jax.Array], tuple[Any, StepMetrics]]:
            def found(state: TrainState, rows: jax.Array) -> tuple[Any, StepMetrics]:
                batch = jax.lax.with_sharding_constraint(gather(held, rows), spread)
                return gradients(state, batch)

            return found

        def step(index: jax.Array, carry: Any) -> Any:
            state, metrics = carry
            # A branch hands on copies of what it makes: gradients, and nothing of the optimiser.
            grads, plain = jax.lax.switch(buckets[index], branches, state, rows[index])
            state, norm = update(state, grads)
            found = {**plain, "grad_norm": norm}
            return state, {name: metrics[name].at[..., index].set(x) for name, x in found.items()}

        branches = [of(gather) for gather in gathers]
        selected, state = state.selected, dataclasses.replace(state, selected=None)
        _, plain = jax.eval_shape(branches[0], state, rows[0])
        shape = (*plain["loss"].shape, len(rows))
        zeros = {name: jnp.zeros(shape) for name in (*plain, "grad_norm")}
        state, metrics = jax.lax.fori_loop(0, count, step, (state, zeros))
        return dataclasses.replace(state, selected=selected), metrics

    return jax.jit(
        train_loop,
        in_shardings=(places, everywhere, everywhere, everywhere, everywhere),
        out_shardings=(places, replicated),
        donate_argnums=0,
        compiler_options=_compiler_options(population),
    )


def _places(state: TrainState, population: Population) -> tuple[Any, Any, Any]:
    """Where the state is, where batches go, and where metrics go."""
    return (
        jax.tree.map(lambda leaf: leaf.sharding, state),
        population.places(sharding.over_data(population.mesh)),
        population.places(sharding.replicated(population.mesh)),
    )


def _of_population(
    make: Callable[[Mapping[str, jax.Array]], TrainStep],
    values: Mapping[str, jax.Array],
    population: Population,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`gradients` and `update` of all members."""
    # What a loop over members passes on costs a copy and a program for each leaf of the state: it
    # computes gradients alone.
    each_gradients = population.each(lambda member: make(member[2]).gradients(member[0], member[1]))
    each_update = population.each(lambda member: make(member[2]).update(*member[:2]), at_once=True)

    def gradients(state: TrainState, batch: Batch) -> tuple[Any, StepMetrics]:
        needed = dataclasses.replace(state, opt_state=None, selected=None)
        return cast(tuple[Any, StepMetrics], each_gradients((needed, batch, values)))

    def update(state: TrainState, grads: Any) -> tuple[TrainState, jax.Array]:
        return cast(tuple[TrainState, jax.Array], each_update((state, grads, values)))

    return gradients, update


def jit_eval_step(step: EvalStep, params: Any, population: Population) -> EvalStep:
    """Compiles for `params`' shardings; all members take the same batch, and every device that
    holds a member gets all its predictions.
    """
    places = jax.tree.map(lambda leaf: leaf.sharding, params)
    each = population.each(step)

    def eval_step(params: Any, batch: Batch) -> Predictions:
        return cast(Predictions, each(params, batch))

    return jax.jit(
        eval_step,
        in_shardings=(places, sharding.over_data(population.mesh)),
        out_shardings=population.places(sharding.replicated(population.mesh)),
        compiler_options=_compiler_options(population),
    )


def _compiler_options(population: Population) -> dict[str, str | bool] | None:
    """On a CPU: each product of matrices by Eigen, and where cores are few in one thread.

    XLA's other library (YNNPACK) takes longer over matrices as small as these, and two threads
    over one product gain nothing: without both, a step on two cores takes a quarter less time.
    """
    if population.mesh.devices.flat[0].platform != "cpu":
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    enough = (cores or 1) > 2 * len(population.mesh.local_devices)
    return {"xla_cpu_multi_thread_eigen": enough, "xla_cpu_experimental_ynn_fusion_type": ""}


def _apply(model: nn.Module, params: Any, batch: Batch, **how: Any) -> Output:
    return cast(Output, model.apply({"params": params}, batch, **how))


def _split_rows(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] to [parts, B / parts, ...], strided, so that sharded rows stay where they are."""
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
