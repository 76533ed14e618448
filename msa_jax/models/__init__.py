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
from msa_jax.models.cross_modal import CrossModalFusion
from msa_jax.models.early import EarlyFusion
from msa_jax.models.encoders import Encoder
from msa_jax.models.fusion import FusionModel
from msa_jax.models.late import LateFusion
from msa_jax.models.layers import Classifier
from msa_jax.models.primary import PrimaryFusion
from msa_jax.models.temporal import TemporalFusion
from msa_jax.models.translate import TranslationFusion
from msa_jax.models.unimodal import ModalityTransformer

# Heads for `FusionModel`: called as `head({modality: Encoded}, train) -> Fused`.
FUSIONS: dict[str, Any] = {
    "early": EarlyFusion,
    "attention": AttentionFusion,
    "cross_modal": CrossModalFusion,
    "bottleneck": BottleneckFusion,
    "translate": TranslationFusion,
    "primary": PrimaryFusion,
    "temporal": TemporalFusion,
}
# Whole models over unimodal classifiers: called as `model(batch, train) -> Output`.
VOTERS: dict[str, Any] = {"unimodal": ModalityTransformer, "late": LateFusion}

# Fields of modules that `build` sets itself.
_NOT_CONFIGURED = {"dtype", "parent", "name", "encoders", "classifiers", "frozen"}
_NOT_CONFIGURED |= {"num_outputs", "max_length"}


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
      model: `name`, the fields of `encoder` and `classifier`, and that model's own fields.
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
    known = {**FUSIONS, **VOTERS}
    if name not in known:
        raise UserError(f"config.model.name={name!r} is not a model. {nearest(str(name), known)}")
    compute = jnp.dtype(dtype)
    encoder = _fields(Encoder, fields.pop("encoder", {}), "model.encoder.")
    classifier = _fields(Classifier, fields.pop("classifier", {}), "model.classifier.")
    own = _fields(known[name], fields, "model.", also=("name", "encoder", "classifier"))
    _check_heads(encoder, own, known[name])
    encoders = {m: Encoder(**encoder, max_length=max_length, dtype=compute) for m in modalities}

    def classify() -> Classifier:
        return Classifier(num_outputs=num_outputs, **classifier, dtype=compute)

    if name in FUSIONS:
        head = FUSIONS[name](**own, dtype=compute)
        return FusionModel(encoders, head, classify(), frozen=frozen_encoders)
    if name == "unimodal" and len(modalities) != 1:
        raise UserError(
            f"config.model.name=unimodal takes one modality, config.data.modalities names "
            f"{', '.join(modalities)}. Use early, attention or late, or name one."
        )
    classifiers = {m: classify() for m in modalities}
    return VOTERS[name](encoders, classifiers, frozen=frozen_encoders, **own)


def _fields(
    module: Any, values: Mapping[str, Any], path: str, also: Sequence[str] = ()
) -> dict[str, Any]:
    own = {field.name for field in dataclasses.fields(module)} - _NOT_CONFIGURED
    hints = {name: hint for name, hint in get_type_hints(module).items() if name in own}
    return check_fields({**hints, **dict.fromkeys(also, object)}, values, path)


def _check_heads(encoder: Mapping[str, Any], own: Mapping[str, Any], known: Any) -> None:
    width, kernel = encoder.get("width", Encoder.width), encoder.get("kernel", Encoder.kernel)
    if kernel % 2 == 0:
        raise UserError(
            f"config.model.encoder.kernel={kernel}: expected an odd number of frames, so that a "
            "frame stands in the middle of what it sees."
        )
    for path, heads in (
        ("encoder.num_heads", encoder.get("num_heads", Encoder.num_heads)),
        ("num_heads", own.get("num_heads", getattr(known, "num_heads", 1))),
    ):
        if heads < 1 or width % heads:
            raise UserError(
                f"config.model.{path}={heads} does not divide config.model.encoder.width={width}."
            )
