"""The train state: everything that training changes, and nothing else."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from msa_jax import sharding
from msa_jax.population import Population


@flax.struct.dataclass
class TrainState:
    """Everything that training changes; of a population each leaf has a leading axis [S].

    Attributes:
      params: of the model.
      opt_state: of the optimiser.
      step: [] int32, updates taken.
      rng: a key that never changes; step s draws from `fold_in(rng, s)`, so that no key drifts and
        a resumed run draws what an uninterrupted one draws.
      selected: the parameters that were best on validation so far.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    rng: jax.Array
    selected: Any


def initialize(
    model: nn.Module, optimizer: optax.GradientTransformation, batch: Any, seed: jax.Array
) -> TrainState:
    """A fresh state; `batch` gives shapes alone. Pure: it can be jitted and mapped over seeds."""
    init_key, rng = jax.random.split(jax.random.key(seed))
    params = model.init(init_key, batch, train=False)["params"]
    return TrainState(
        params=params,
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        rng=rng,
        selected=jax.tree.map(jnp.copy, params),  # donated beside them: no buffer twice
    )


def abstract(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch: Any,
    population: Population,
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without computing it."""
    one = jax.eval_shape(
        lambda batch, seed: initialize(model, optimizer, batch, seed), batch, jnp.uint32(0)
    )
    places = sharding.of_state(one, population.mesh)
    return sharding.abstract(population.stacked_shapes(one), population.places(places))


def create(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch: Any,
    seeds: Sequence[int],
    population: Population,
) -> TrainState:
    """The fresh states of `seeds`, born sharded: no device ever holds more than its part."""
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract(model, optimizer, batch, population))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch)
    start = population.each(lambda seed, batch: initialize(model, optimizer, batch, seed))
    return jax.jit(start, out_shardings=places)(
        population.stack([jnp.uint32(seed) for seed in seeds]), zeros
    )


@functools.partial(jax.jit, donate_argnums=0)
def select(state: TrainState, better: jax.Array) -> TrainState:
    """`state` whose present parameters are the selected ones where `better` [] or [S] is true."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, old)

    return dataclasses.replace(state, selected=jax.tree.map(choose, state.params, state.selected))
