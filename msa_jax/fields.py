"""How the fields of a config are checked: known names, types and ranges."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from msa_jax.errors import UserError, nearest

LAST_SEED = 2**32 - 1  # keys are made of 32 bits

# Least and greatest legal value by field, and of any model's own fields by their last name.
_AT_LEAST = {
    "seed": 0,
    "num_seeds": 1,
    "data.seed": 0,
    "data.max_length": 1,
    "data.buckets": 1,
    "augment.modality_dropout": 0,
    "augment.frame_dropout": 0,
    "augment.noise": 0,
    "task.unimodal_weight": 0,
    "optimizer.learning_rate": 0,
    "optimizer.warmup_steps": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "training.batch_size": 1,
    "training.accumulate": 1,
    "training.eval_batch_size": 1,
    "training.steps_per_loop": 1,
    "training.epochs": 1,
    "training.evaluations_per_epoch": 1,
    "training.patience": 0,
    "width": 1,
    "kernel": 0,
    "hidden": 1,
    "num_layers": 0,
    "num_self_layers": 0,
    "fusion_layer": 0,
    "num_bottlenecks": 1,
    "num_nodes": 1,
    "translation_weight": 0,
    "contrast_weight": 0,
    "num_heads": 1,
    "rank": 1,
    "temperature": 0.01,
    "dropout": 0,
    "attention_dropout": 0,
    "input_dropout": 0,
    "output_dropout": 0,
}
_AT_MOST = {
    "seed": LAST_SEED,
    "data.seed": LAST_SEED,
    "data.buckets": 16,
    "augment.modality_dropout": 0.99,
    "augment.frame_dropout": 0.99,
    "dropout": 0.99,
    "attention_dropout": 0.99,
    "input_dropout": 0.99,
    "output_dropout": 0.99,
}


def check_fields(hints: Mapping[str, Any], mapping: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The values of `mapping`, checked against the types `hints` of the fields at `path`.

    Raises:
      UserError: on an unknown field, or a value of the wrong type or outside its legal values.
    """
    for name in mapping:
        if name not in hints:
            raise UserError(f"config.{path}{name} is not a field. {nearest(name, hints)}")
    return {name: _value(hints[name], value, path + name) for name, value in mapping.items()}


def section(cls: Any, mapping: Mapping[str, Any], path: str = "") -> Any:
    """The dataclass `cls` made of `mapping`, whose fields are checked as `check_fields` does."""
    return cls(**check_fields(typing.get_type_hints(cls), mapping, path))


def _value(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"config.{path} is {value!r}: expected a section of fields.")
        return section(hint, value, path + ".")
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise UserError(f"config.{path}={value!r} is not known. {nearest(str(value), choices)}")
        return value
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple) or not all(isinstance(v, item) for v in value):
            raise UserError(f"config.{path}={value!r}: expected a list of {item.__name__}.")
        for part in value:
            _check_range(part, path)
        return tuple(value)
    if origin is not None and issubclass(origin, Mapping):
        return types.MappingProxyType(dict(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is float and hasattr(value, "aval"):
        return value  # traced: it stands for several values, each of which was checked
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"config.{path}={value!r}: expected {hint.__name__}.")
    _check_range(value, path)
    return value


def _check_range(value: Any, path: str) -> None:
    name = path.rpartition(".")[2] if path.startswith("model.") else path
    least, most = _AT_LEAST.get(name), _AT_MOST.get(name)
    if least is not None and not value >= least:
        raise UserError(f"config.{path}={value!r}: expected at least {least}.")
    if most is not None and not value <= most:
        raise UserError(f"config.{path}={value!r}: expected at most {most}.")
