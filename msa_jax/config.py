"""The configuration of a run: its fields, their defaults, meanings and legal values.

A run is described by an `ml_collections.ConfigDict` that a file in `configs/` returns and flags
override. `resolve` turns that mapping, or the JSON saved beside a checkpoint, into the frozen
dataclasses below, and refuses what it does not know by name. Nothing here is derived from another
field, so a flag can never leave a stale value behind.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, Literal

from msa_jax import fields
from msa_jax.errors import UserError

SYNTHETIC = "synthetic_mosei"  # the embedded dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Which utterances, which modalities, and how they become arrays.

    Attributes:
      name: synthetic_mosei, the embedded dataset, or one that `scripts/prepare_data.py` has
        written.
      path: instead of a name, a file or folder of features in any format of
        `msa_jax.data.sources`; it is prepared on first use.
      dir: where prepared datasets live; empty means TFDS's own default (`TFDS_DATA_DIR`, else
        `~/tensorflow_datasets`).
      modalities: the modalities to use, in the order in which they are joined.
      split_column: the column of a features file or table that holds train, valid or test.
      size: of the synthetic dataset: quick (5,000 + 1,000 + 2,000), full (MOSEI's sizes) or tenfold
        (to try out what does not fit).
      seed: of the synthetic dataset's generator. The dataset is not part of a run's randomness.
      max_length: frames kept of a modality's sequence, from its start; the field uses 50.
      normalize: z-score each column with statistics of the train split.
      buckets: groups of like length that batches are drawn from, so that little padding is
        computed; each is a shape to compile. 1 pads every batch to the longest utterance.
      feed: stream reads frames from disk as they are needed, in bounded memory; resident keeps the
        splits on every device; auto is resident for splits up to 2 GiB. The batches are the same,
        and runs agree to rounding.
    """

    name: str = SYNTHETIC
    path: str = ""
    dir: str = ""
    modalities: tuple[str, ...] = ("text", "audio", "vision")
    split_column: str = "split"
    size: Literal["quick", "full", "tenfold"] = "full"
    seed: int = 0
    max_length: int = 50
    normalize: bool = True
    buckets: int = 6
    feed: Literal["auto", "stream", "resident"] = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """What is taken from or added to training batches, drawn anew for each (seed, step).

    Attributes:
      modality_dropout: probability that an utterance loses a modality; one always stays.
      frame_dropout: probability that a frame is masked; one of a modality always stays.
      noise: standard deviation of the noise added to every (normalised) feature.
    """

    modality_dropout: float = 0.0
    frame_dropout: float = 0.0
    noise: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is predicted from the score in [-3, 3], and the loss.

    Attributes:
      kind: three_class (negative, neutral, positive), seven_class (the rounded score) or
        regression of the score.
      neutral: which scores three_class calls neutral: closed is [-1, 1], as the base paper writes;
        right_closed is (-1, 1], as its figures suggest.
      loss: auto is cross_entropy for classes and l1 for regression.
      class_weights: balanced weighs each class by the inverse of its share in the train split.
      unimodal_weight: weight of the sum of the unimodal classifiers' losses, for models that have
        them.
    """

    kind: Literal["three_class", "seven_class", "regression"] = "three_class"
    neutral: Literal["closed", "right_closed"] = "closed"
    loss: Literal["auto", "cross_entropy", "l1", "l2", "huber"] = "auto"
    class_weights: Literal["none", "balanced"] = "none"
    unimodal_weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Adam or AdamW with a learning-rate schedule.

    Attributes:
      warmup_steps: steps of linear warm-up from 0 to `learning_rate`.
      schedule: what follows the warm-up, down to 0 at the last step for linear and cosine.
      weight_decay: decoupled, on matrices alone; must be 0 for adam.
      clip_norm: largest norm of the gradients, over all parameters that are trained together; 0
        leaves them alone.
    """

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: float = 0.0
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The loop.

    Attributes:
      batch_size: examples a step, over all devices and processes; videos a step of a model that
        reads whole videos (config.model.context).
      accumulate: equal parts a batch is split into, one after the other, to save memory.
      eval_batch_size: examples, or videos, an evaluation step.
      steps_per_loop: steps that the devices take at most before the host asks again, where frames
        are resident (config.data.feed); between two such loops a run can be stopped, and tells how
        far it is. How many is no part of the result. Measured on CPUs alone.
      epochs: passes over the train split, each of ceil(N / batch_size) steps; one batch of a pass
        may hold fewer examples.
      evaluations_per_epoch: evaluations on the validation split, each followed by a checkpoint.
      patience: evaluations without improvement before the run stops; 0 never stops early.
      selection: validation metric that chooses the checkpoint: loss, or a key of results.json.
      dtype: of the computation; params, softmax, losses and metrics are always float32.
    """

    batch_size: int = 32
    accumulate: int = 1
    eval_batch_size: int = 256
    steps_per_loop: int = 32
    epochs: int = 20
    evaluations_per_epoch: int = 1
    patience: int = 0
    selection: str = "loss"
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Init:
    """Where the encoders' first weights come from.

    Attributes:
      encoders: work directories of finished runs (one late run, or one run a modality). Every
        modality's encoder must be found in exactly one of them.
      freeze: keep those encoders as they are and train the rest.
    """

    encoders: tuple[str, ...] = ()
    freeze: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """Devices an axis; one of data, fsdp and model may be -1, which takes what is left.

    Attributes:
      seed: spreads the seeds; -1 takes the most devices over which they divide evenly.
      data: splits the batch; each device holds all parameters.
      fsdp: splits the batch, and large parameters with their optimiser moments, which are gathered
        where they are used: for models that one device does not hold.
      model: splits attention heads and hidden units; its devices share a part of the batch.
    """

    seed: int = -1
    data: int = -1
    fsdp: int = 1
    model: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A run, or several that differ in their seed.

    Attributes:
      seed: sets everything random in a run: initial weights, dropout, order of the data.
      num_seeds: runs with this seed and those after it, trained in one program.
      model: `name` and that model's own fields; `msa_jax.models.build` checks them.
    """

    seed: int = 0
    num_seeds: int = 1
    data: Data = Data()
    augment: Augment = Augment()
    task: Task = Task()
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    init: Init = Init()
    mesh: Mesh = Mesh()


def to_dict(config: Config) -> dict[str, Any]:
    """`config` as plain JSON-able containers (tuples become lists)."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    parts = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        name: plain(dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value)  # type: ignore[arg-type]
        for name, value in parts.items()
    }


def digest(config: Config) -> str:
    """A few letters that tell this config from any other."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def resolve(mapping: Any) -> Config:
    """Checks a `ConfigDict`, or any nested mapping, and returns it as a frozen `Config`.

    Paths become absolute, so that the config recorded with a run means the same from anywhere.

    Raises:
      UserError: on an unknown field (with the nearest right name), a value of the wrong type or
        outside its legal values, or fields that contradict each other.
    """
    plain = mapping.to_dict() if hasattr(mapping, "to_dict") else mapping
    config: Config = fields.section(Config, plain)
    check_data(config.data)
    most = fields.LAST_SEED
    if config.seed + config.num_seeds - 1 > most:
        raise UserError(
            f"config.seed={config.seed} with config.num_seeds={config.num_seeds} leads beyond the "
            f"last seed, {most}: use at most --config.seed={most + 1 - config.num_seeds}."
        )
    classes = config.task.kind != "regression"
    if config.task.loss != "auto" and classes != (config.task.loss == "cross_entropy"):
        legal = "cross_entropy" if classes else "l1, l2 or huber"
        raise UserError(
            f"config.task.loss={config.task.loss} does not fit config.task.kind="
            f"{config.task.kind}: use auto or {legal}."
        )
    if config.task.class_weights == "balanced" and not classes:
        raise UserError("config.task.class_weights=balanced needs classes, not regression.")
    if config.optimizer.name == "adam" and config.optimizer.weight_decay:
        raise UserError(
            "config.optimizer.weight_decay is set but adam has no decoupled decay: "
            "use --config.optimizer.name=adamw."
        )
    if config.training.batch_size % config.training.accumulate:
        raise UserError(
            f"config.training.batch_size={config.training.batch_size} is not a multiple of "
            f"config.training.accumulate={config.training.accumulate}."
        )
    if config.training.accumulate > 1 and of_videos(config):
        raise UserError(
            f"config.training.accumulate={config.training.accumulate} would cut videos apart, "
            "which config.model.context reads whole: use 1."
        )
    if config.init.freeze and not config.init.encoders:
        raise UserError("config.init.freeze needs config.init.encoders: nothing to keep frozen.")
    data = dataclasses.replace(
        config.data, path=absolute(config.data.path), dir=absolute(config.data.dir)
    )
    encoders = tuple(absolute(workdir) for workdir in config.init.encoders)
    init = dataclasses.replace(config.init, encoders=encoders)
    return dataclasses.replace(config, data=data, init=init)


def context(config: Config) -> str:
    """The kind of layer over the utterances of a video; none judges each utterance alone."""
    kind: str = config.model.get("context", {}).get("kind", "none")
    return kind


def of_videos(config: Config) -> bool:
    """Whether batches hold whole videos, since the model sees an utterance among its neighbours."""
    return context(config) != "none"


def absolute(path: str) -> str:
    """`path` as it will mean the same from any directory; buckets and empty paths as they are."""
    return path if not path or "://" in path else os.path.abspath(os.path.expanduser(path))


def check_data(data: Data) -> None:
    """Raises UserError if the fields of `data` contradict one another."""
    if not data.modalities:
        raise UserError("config.data.modalities is empty: name at least one modality.")
    if data.path and data.name != SYNTHETIC:
        raise UserError(
            f"data.path={data.path} and data.name={data.name} name two datasets: give one of them."
        )
    if not data.path and data.split_column != "split":
        raise UserError(
            f"config.data.split_column={data.split_column} chooses the splits of a file "
            "(config.data.path); a dataset that is prepared has its own."
        )
    if len(set(data.modalities)) < len(data.modalities):
        raise UserError(f"config.data.modalities repeats a name: {data.modalities}.")


# What a model's field is in the config of a run from before there was such a field.
_ABSENT = {"model.encoder.layers": "unrolled", "model.encoder.kernel": 1}


def differences(old: Config, new: Config) -> list[str]:
    """The fields in which two configs describe different runs, as readable lines.

    Where data lie (`data.dir`, `data.path`: the dataset's own fingerprint is compared instead), how
    they are fed and in loops of how many steps, the mesh, what is computed twice to save memory,
    and the fields of a context where there is none do not make another run.
    """

    def described(config: Config) -> dict[str, Any]:
        fields = _ABSENT | flat(config)
        if of_videos(config):
            return fields
        return {name: x for name, x in fields.items() if not name.startswith("model.context.")}

    before, after = described(old), described(new)
    ignored = {"data.dir", "data.path", "data.feed", "training.steps_per_loop"}
    ignored |= {"model.encoder.remat"}
    ignored |= {f"mesh.{field.name}" for field in dataclasses.fields(Mesh)}
    absent = "(absent)"
    return [
        f"config.{key}: {before.get(key, absent)!r} there, {after.get(key, absent)!r} now"
        for key in sorted(before.keys() | after.keys())
        if key not in ignored and before.get(key, absent) != after.get(key, absent)
    ]


def flat(config: Config) -> dict[str, Any]:
    """`{dotted name: value}` of all fields."""

    def walk(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            return {path: value}
        parts = (walk(item, f"{path}.{key}" if path else key) for key, item in value.items())
        return {key: item for part in parts for key, item in part.items()}

    return walk(to_dict(config), "")


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with other `{dotted name: value}`, which nothing checks: they may be traced."""

    def replaced(section: Any, names: list[str], value: Any) -> Any:
        if not names:
            return value
        name, *rest = names
        if isinstance(section, Mapping):
            return {**section, name: replaced(section.get(name, {}), rest, value)}
        return dataclasses.replace(section, **{name: replaced(getattr(section, name), rest, value)})

    for path, value in values.items():
        config = replaced(config, path.split("."), value)
    return config
