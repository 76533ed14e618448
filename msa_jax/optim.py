"""The optimiser and its learning-rate schedule."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from msa_jax.config import Optimizer


def schedule(config: Optimizer, total_steps: int) -> optax.Schedule:
    """The learning rate by step: linear warm-up from 0, then constant, or down to 0 at the end."""
    peak, rest = config.learning_rate, max(total_steps - config.warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
    }[config.schedule]
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def build(
    config: Optimizer,
    total_steps: int,
    frozen: tuple[str, ...] = (),
    independent: Mapping[str, str] | None = None,
) -> optax.GradientTransformation:
    """Clipping by norm, then Adam or AdamW.

    Args:
      config: see `msa_jax.config.Optimizer`.
      total_steps: of the run, for the schedule.
      frozen: first keys of the parameters that get no update (and no weight decay).
      independent: `{first key of the parameters: group}` where parts of a model are trained apart:
        each group's gradients have a norm of their own. None is one norm over all.
    """
    rate = schedule(config, total_steps)
    if config.name == "adam":
        optimizer = optax.adam(rate)
    else:
        optimizer = optax.adamw(rate, weight_decay=config.weight_decay, mask=_matrices)
    if config.clip_norm:
        clip = clip_by_norm(config.clip_norm)
        if independent:
            clip = optax.partition(dict.fromkeys(independent.values(), clip), _labels(independent))
        optimizer = optax.chain(clip, optimizer)
    if not frozen:
        return optimizer
    labels = _labels(dict.fromkeys(frozen, "frozen"), default="trained")
    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm [] of all leaves of `tree` together, float32.

    `optax.tree.norm`, but on a CPU, where XLA sums a long array slowly, by products.
    """
    return jax.lax.platform_dependent(tree, cpu=_norm_by_products, default=optax.tree.norm)


def _norm_by_products(tree: Any) -> jax.Array:
    squares = [jnp.tensordot(leaf, leaf, leaf.ndim) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, start=jnp.zeros(())))


def clip_by_norm(most: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, to rounding: a factor, where that divides each gradient.

    XLA makes the clipped gradients anew wherever they are used, for a factor is cheap; those that
    were divided it would write down.
    """

    def clip(updates: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, Any]:
        del params
        factor = jnp.minimum(1.0, most / norm(updates))
        return jax.tree.map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformation(optax.init_empty_state, clip)


def _labels(groups: Mapping[str, str], default: str = "") -> Callable[[optax.Params], optax.Params]:
    """What `optax.partition` asks for: the group of every leaf, known from its first key."""

    def label(params: optax.Params) -> optax.Params:
        named = {name: groups.get(name, default) for name in params}
        return {
            name: jax.tree.map(lambda _, group=named[name]: group, tree)
            for name, tree in params.items()
        }

    return label


def _matrices(params: optax.Params) -> optax.Params:
    """True for kernels; biases, norms and positions do not decay."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", "") == "kernel", params
    )
