"""The train state: everything that training changes, and nothing else."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from msa_jax import sharding


@flax.struct.dataclass
class TrainState:
    """Attributes:
    params: of the model.
    opt_state: of the optimiser.
    step: [] int32, updates taken.
    rng: a key that never changes; step s draws from `fold_in(rng, s)`, so that no key drifts and a
      resumed run draws what an uninterrupted one draws.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    rng: jax.Array


def initialize(
    model: nn.Module, optimizer: optax.GradientTransformation, batch: Any, seed: jax.Array
) -> TrainState:
    """A fresh state; `batch` gives shapes alone. Pure: it can be jitted and vmapped over seeds."""
    init_key, rng = jax.random.split(jax.random.key(seed))
    params = model.init(init_key, batch, train=False)["params"]
    return TrainState(
        params=params, opt_state=optimizer.init(params), step=jnp.zeros((), jnp.int32), rng=rng
    )


def abstract(
    model: nn.Module, optimizer: optax.GradientTransformation, batch: Any, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without computing it."""
    shapes = jax.eval_shape(
        lambda batch, seed: initialize(model, optimizer, batch, seed), batch, jnp.uint32(0)
    )
    return sharding.abstract(shapes, sharding.of_state(shapes, mesh))


def create(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch: Any,
    seed: int,
    mesh: Mesh,
) -> TrainState:
    """A fresh state, born sharded: no device ever holds more than its part."""
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract(model, optimizer, batch, mesh))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch)
    create_sharded = jax.jit(
        lambda batch, seed: initialize(model, optimizer, batch, seed), out_shardings=places
    )
    return create_sharded(zeros, jnp.uint32(seed))
