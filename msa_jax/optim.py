"""The optimiser and its learning-rate schedule."""

from collections.abc import Callable, Mapping

import jax
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
        clip = optax.clip_by_global_norm(config.clip_norm)
        if independent:
            clip = optax.partition(dict.fromkeys(independent.values(), clip), _labels(independent))
        optimizer = optax.chain(clip, optimizer)
    if not frozen:
        return optimizer
    labels = _labels(dict.fromkeys(frozen, "frozen"), default="trained")
    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


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
