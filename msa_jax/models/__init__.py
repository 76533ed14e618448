"""Models by name. A new fusion is a file with its head and a line in `FUSIONS`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import flax.linen as nn
import jax.numpy as jnp

from msa_jax.errors import UserError, nearest
from msa_jax.fields import check_fields
from msa_jax.models.attention import AttentionFusion
from msa_jax.models.bottleneck import BottleneckFusion
from msa_jax.models.context import Context
from msa_jax.models.cross_modal import CrossModalFusion
from msa_jax.models.daf import DynamicAttentionFusion
from msa_jax.models.early import EarlyFusion
from msa_jax.models.encoders import Encoder
from msa_jax.models.fusion import FusionModel
from msa_jax.models.gated import GatedFusion
from msa_jax.models.late import LateFusion
from msa_jax.models.layers import Classifier
from msa_jax.models.low_rank import LowRankFusion
from msa_jax.models.primary import PrimaryFusion
from msa_jax.models.temporal import TemporalFusion
from msa_jax.models.tensor import TensorFusion, TensorPairs
from msa_jax.models.translate import TranslationFusion
from msa_jax.models.unimodal import ModalityTransformer

# Heads for `FusionModel`: called as `head({modality: Encoded}, train) -> Fused`. One that has
# `any_widths` takes pooled vectors of unlike widths, as encoders without a first layer make them.
FUSIONS: dict[str, Any] = {
    "early": EarlyFusion,
    "attention": AttentionFusion,
    "daf": DynamicAttentionFusion,
    "gated": GatedFusion,
    "low_rank": LowRankFusion,
    "tensor": TensorFusion,
    "cross_modal": CrossModalFusion,
    "bottleneck": BottleneckFusion,
    "translate": TranslationFusion,
    "primary": PrimaryFusion,
    "temporal": TemporalFusion,
}
# Whole models, whose classifiers vote: called as `model(batch, train) -> Output`.
VOTERS: dict[str, Any] = {"late": LateFusion, "tensor_pairs": TensorPairs}

# Fields of modules that `build` sets itself.
_NOT_CONFIGURED = {"dtype", "parent", "name", "encoders", "classifiers", "frozen"}
_NOT_CONFIGURED |= {"num_outputs", "max_length", "context", "contexts"}


def build(
    model: Mapping[str, Any],
    *,
    modalities: Sequence[str],
    num_outputs: int,
    max_length: int = 50,
    dtype: str = "float32",
    frozen_encoders: bool = False,
) -> nn.Module:
    """The model that `config.model` describes.

    Args:
      model: `name`, the fields of `encoder`, `context` and `classifier`, and that model's own
        fields.
      modalities: in the order in which they are joined.
      num_outputs: K.
      max_length: the longest sequence T that will come, for learned positions.
      dtype: of the computation; parameters are float32.
      frozen_encoders: encoders keep their weights and do not drop out.

    Returns:
      A module called as `module.apply(variables, batch, train) -> Output`.

    Raises:
      UserError: on an unknown name or field, or values that do not fit together.
    """
    fields = dict(model)
    name = fields.pop("name", "")
    known = {"unimodal": ModalityTransformer, **FUSIONS, **VOTERS}
    if name not in known:
        raise UserError(f"config.model.name={name!r} is not a model. {nearest(str(name), known)}")
    compute = jnp.dtype(dtype)
    encoder = _fields(Encoder, fields.pop("encoder", {}), "model.encoder.")
    classifier = _fields(Classifier, fields.pop("classifier", {}), "model.classifier.")
    context = _fields(Context, fields.pop("context", {}), "model.context.")
    own = _fields(known[name], fields, "model.", also=("name", "encoder", "context", "classifier"))
    _check_first_layer(encoder, name, known[name])
    _check_heads(encoder, own, known[name])
    _check_context(context)
    encoders = {m: Encoder(**encoder, max_length=max_length, dtype=compute) for m in modalities}

    def classify() -> Classifier:
        return Classifier(num_outputs=num_outputs, **classifier, dtype=compute)

    def among_others() -> Context | None:
        alone = context.get("kind", "none") == "none"
        return None if alone else Context(**context, dtype=compute)

    if name in FUSIONS:
        head = FUSIONS[name](**own, dtype=compute)
        return FusionModel(
            encoders, head, classify(), frozen=frozen_encoders, context=among_others()
        )
    if name == "unimodal" and len(modalities) != 1:
        raise UserError(
            f"config.model.name=unimodal takes one modality, config.data.modalities names "
            f"{', '.join(modalities)}. Use early, attention or late, or name one."
        )
    if name == "tensor_pairs" and len(modalities) < 2:
        raise UserError(
            f"config.model.name=tensor_pairs pairs modalities, config.data.modalities names "
            f"{', '.join(modalities)} alone. Name another, or use tensor."
        )
    classifiers = {m: classify() for m in modalities}
    contexts = {m: among_others() for m in modalities} if among_others() else None
    return known[name](encoders, classifiers, frozen=frozen_encoders, contexts=contexts, **own)


def _fields(
    module: Any, values: Mapping[str, Any], path: str, also: Sequence[str] = ()
) -> dict[str, Any]:
    own = {field.name for field in dataclasses.fields(module)} - _NOT_CONFIGURED
    hints = {name: hint for name, hint in get_type_hints(module).items() if name in own}
    return check_fields({**hints, **dict.fromkeys(also, object)}, values, path)


def _check_first_layer(encoder: Mapping[str, Any], name: str, known: Any) -> None:
    kernel = encoder.get("kernel", Encoder.kernel)
    if kernel % 2:
        return
    if kernel:
        raise UserError(
            f"config.model.encoder.kernel={kernel}: expected an odd number of frames, so that a "
            "frame stands in the middle of what it sees."
        )
    if not getattr(known, "any_widths", False):
        raise UserError(
            "config.model.encoder.kernel=0 leaves each modality as wide as its features are, and "
            f"config.model.name={name} takes them of one width alone: use a kernel of 1, or a "
            "model that takes any, such as early or daf."
        )
    for field, nothing in (("num_layers", 0), ("positions", "none")):
        value = encoder.get(field, getattr(Encoder, field))
        if value != nothing:
            raise UserError(
                f"config.model.encoder.{field}={value} needs the first layer, which "
                f"config.model.encoder.kernel=0 leaves out: use {nothing}, or a kernel of 1."
            )


def _check_heads(encoder: Mapping[str, Any], own: Mapping[str, Any], known: Any) -> None:
    width = encoder.get("width", Encoder.width)
    has_layers = encoder.get("num_layers", Encoder.num_layers) > 0
    for path, heads in (
        ("encoder.num_heads", encoder.get("num_heads", Encoder.num_heads) if has_layers else 1),
        ("num_heads", own.get("num_heads", getattr(known, "num_heads", 1))),
    ):
        if heads < 1 or width % heads:
            raise UserError(
                f"config.model.{path}={heads} does not divide config.model.encoder.width={width}."
            )


def _check_context(context: Mapping[str, Any]) -> None:
    width = context.get("width", Context.width)
    heads = context.get("num_heads", Context.num_heads)
    kind = context.get("kind", "none")
    if kind == "transformer" and width % heads:
        raise UserError(
            f"config.model.context.num_heads={heads} does not divide "
            f"config.model.context.width={width}."
        )
    if kind == "recurrent" and width % 2:
        raise UserError(
            f"config.model.context.width={width}: expected an even number, half of it for each "
            "direction."
        )
