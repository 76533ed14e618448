"""What a config describes, put together: task, objective and model; and where encoders start."""

import dataclasses
import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from msa_jax import config as config_lib
from msa_jax import losses, metrics, models, optim, sharding, steps
from msa_jax.checkpoints import Checkpoints, mismatches, named_shapes
from msa_jax.config import Config
from msa_jax.data.normalization import Normalization
from msa_jax.data.schema import FeatureSchema, mask_key
from msa_jax.errors import UserError, nearest
from msa_jax.steps import Objective
from msa_jax.tasks import Task

# Models keep modality m's encoder in params["encoders_" + m], a vote its classifier and its context
# likewise.
ENCODERS = "encoders_"
CLASSIFIERS = "classifiers_"
CONTEXTS = "contexts_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """A model and what it is trained for."""

    task: Task
    objective: Objective
    model: nn.Module


def build(config: Config, train_scores: np.ndarray | None = None) -> System:
    """The system that `config` describes.

    Args:
      config: a resolved config.
      train_scores: [N] of the train split, for class weights; evaluation needs none.

    Raises:
      UserError: on a model's unknown field, a selection metric the task does not have, or a train
        split of a single class.
    """
    task = Task(kind=config.task.kind, neutral=config.task.neutral)
    if train_scores is not None and not task.is_regression:
        _check_classes(task, train_scores)
    model = models.build(
        config.model,
        modalities=config.data.modalities,
        num_outputs=task.num_outputs,
        dtype=config.training.dtype,
        max_length=config.data.max_length,
        frozen_encoders=config.init.freeze,
    )
    known = ["loss", *metrics.of_outputs(task, np.ones(1), np.ones((1, task.num_outputs)))]
    selection = config.training.selection
    if selection not in known:
        raise UserError(
            f"config.training.selection={selection!r} is no metric of {task.kind}. "
            f"{nearest(selection, known)}"
        )
    loss = config.task.loss
    if loss == "auto":
        loss = "l1" if task.is_regression else "cross_entropy"
    weights: tuple[float, ...] = ()
    if config.task.class_weights == "balanced" and train_scores is not None:
        weights = losses.balanced_class_weights(task.labels(train_scores), task.num_outputs)
    if config.model["name"] in models.VOTERS and not config.task.unimodal_weight:
        raise UserError(
            f"config.task.unimodal_weight=0 leaves config.model.name={config.model['name']} "
            "nothing to learn from: its classifiers have no other loss. Use 1."
        )
    objective = Objective(
        loss=loss, unimodal_weight=config.task.unimodal_weight, class_weights=weights
    )
    return System(task=task, objective=objective, model=model)


def _check_classes(task: Task, scores: np.ndarray) -> None:
    found = np.unique(task.labels(scores))
    if len(found) == 1:
        raise UserError(
            f"all {len(scores)} training utterances are {task.class_names[found[0]]!r}: their "
            f"scores go from {scores.min():g} to {scores.max():g}, and classes are cut on [-3, 3]. "
            "Scale the scores, or use --config.task.kind=regression."
        )


def abstract_batch(
    schema: FeatureSchema, batch_size: int, *, of_videos: bool
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch; of a batch of videos, as if each had a single utterance."""
    batch = {
        "score": jax.ShapeDtypeStruct((batch_size,), jnp.float32),
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "example_mask": jax.ShapeDtypeStruct((batch_size,), jnp.bool_),
    }
    if of_videos:
        batch["utterance_mask"] = jax.ShapeDtypeStruct((batch_size, 1), jnp.bool_)
    for m, length in schema.lengths.items():
        batch[m] = jax.ShapeDtypeStruct((batch_size, length, schema.channels[m]), jnp.float32)
        batch[mask_key(m)] = jax.ShapeDtypeStruct((batch_size, length), jnp.bool_)
    return batch


def check_aligned(config: Config, lengths: Mapping[str, np.ndarray]) -> None:
    """Raises UserError if the model fuses frame by frame and the data are not aligned.

    Args:
      config: a resolved config.
      lengths: `{modality: [N]}` frames of each utterance.
    """
    frames = config.model.get("alignment", "frames") == "frames"
    if config.model["name"] != "temporal" or not frames:
        return
    for one, other in itertools.combinations(lengths, 2):
        both = (lengths[one] > 1) & (lengths[other] > 1) & (lengths[one] != lengths[other])
        if both.any():
            row = int(np.argmax(both))
            raise UserError(
                f"config.model.alignment=frames needs aligned data, but {int(both.sum())} of "
                f"{len(both)} training utterances have sequences of different lengths: row {row} "
                f"has {lengths[one][row]} frames of {one} and {lengths[other][row]} of {other}. "
                "Use --config.model.alignment=attention."
            )


def train_step(config: Config, described: System, total_steps: int) -> steps.TrainStep:
    """The pure step that trains `described` as `config` says; see `steps.make_train_step`."""
    return steps.make_train_step(
        described.model,
        optimizer(config, total_steps),
        described.objective,
        config.training.accumulate,
        config.augment,
    )


def optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    """The optimiser of `config`'s parameters: some may be frozen, or clipped apart."""
    return optim.build(
        config.optimizer,
        total_steps,
        frozen=frozen_parameters(config),
        independent=independent_parameters(config),
    )


def frozen_parameters(config: Config) -> tuple[str, ...]:
    """First keys of the parameters that are not trained."""
    return tuple(ENCODERS + m for m in config.data.modalities) if config.init.freeze else ()


def independent_parameters(config: Config) -> dict[str, str]:
    """`{first key: modality}` of the parameters of a late fusion, whose classifiers train apart."""
    if config.model["name"] != "late":
        return {}
    parts = (ENCODERS, CLASSIFIERS, *((CONTEXTS,) if config_lib.of_videos(config) else ()))
    return {part + m: m for m in config.data.modalities for part in parts}


def with_pretrained_encoders(
    params: Mapping[str, Any], config: Config, normalization: Normalization
) -> dict[str, Any]:
    """`params` with the encoders of the finished runs that `config.init.encoders` names.

    Of a run of several seeds, the encoders of the same seed are taken.

    Raises:
      UserError: if a modality's encoder is in none or in several of the runs, or has other shapes.
    """
    result, origin = dict(params), dict[str, str]()
    for workdir in config.init.encoders:
        directory = run_of_seed(epath.Path(workdir), config.seed) / "checkpoints"
        with Checkpoints(directory, read_only=True) as checkpoints:
            saved = checkpoints.shapes()
            mine = [m for m in config.data.modalities if ENCODERS + m in saved]
            for m in mine:
                if m in origin:
                    raise UserError(
                        f"config.init.encoders: both {origin[m]} and {workdir} hold an encoder of "
                        f"{m}. Name one run for each modality."
                    )
                origin[m] = workdir
            wanted = {ENCODERS + m: params.get(ENCODERS + m, {}) for m in mine}
            found = {name: saved[name] for name in wanted}
            problems = mismatches(named_shapes(wanted), named_shapes(found), extra=True)
            if problems:
                lines = "\n  ".join(problems)
                raise UserError(
                    f"config.init.encoders: {workdir} does not fit this model:\n  {lines}\n"
                    "Use the same config.model.encoder and features there and here."
                )
            result |= checkpoints.restore_selected(sharding.abstract(wanted))
            _warn_if_scaled_otherwise(checkpoints.description(), normalization, mine, workdir)
    missing = [m for m in config.data.modalities if m not in origin]
    if config.init.encoders and missing:
        raise UserError(
            f"config.init.encoders holds no encoder of {', '.join(missing)}: "
            "name a run for each modality, or one late run, whose encoders have weights."
        )
    return result


def run_of_seed(workdir: epath.Path, seed: int) -> epath.Path:
    """The directory of a seed's run within `workdir`, or `workdir` itself if it is a lone run."""
    inside = workdir / f"seed_{seed}"
    return inside if inside.exists() else workdir


def _warn_if_scaled_otherwise(
    description: Mapping[str, Any], here: Normalization, modalities: list[str], workdir: str
) -> None:
    there = Normalization.from_json(description["normalization"])
    for m in modalities:
        if (m in there.mean) != (m in here.mean) or (
            m in here.mean and not np.allclose(there.mean[m], here.mean[m], rtol=1e-3, atol=1e-6)
        ):
            warnings.warn(
                f"the {m} encoder of {workdir} was trained on features normalised otherwise "
                "(another train split or config.data.normalize); it may start badly.",
                stacklevel=3,
            )
