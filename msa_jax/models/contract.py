"""What models take and return.

Shape legend: B batch, T time, D width, H heads, C feature channels, K outputs (classes, or 1 for
regression), M modalities, F width of a fused feature vector.
"""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]


@flax.struct.dataclass
class Encoded:
    """What an encoder makes of one modality.

    Attributes:
      tokens: [B, T, D]; whatever stands in padded frames.
      pooled: [B, D]; zeros where the modality is absent.
      mask: [B, T] bool, true where a frame is real.
    """

    tokens: jax.Array
    pooled: jax.Array
    mask: jax.Array

    @property
    def present(self) -> jax.Array:
        """[B] bool: whether the example has this modality at all."""
        return self.mask.any(axis=1)


@flax.struct.dataclass
class Fused:
    """What a fusion head makes of the encoded modalities.

    Attributes:
      features: [B, F], for the classifier.
      weights: `{modality: [B]}` in [0, 1], where the head weighs modalities.
      aux_loss: [] added to the loss as it is.
    """

    features: jax.Array
    weights: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    aux_loss: jax.Array = flax.struct.field(default_factory=lambda: jnp.zeros(()))


@flax.struct.dataclass
class Output:
    """What a model predicts.

    Attributes:
      logits: [B, K] float32; for regression K is 1 and this is the score, see `score`.
      unimodal: `{modality: [B, K]}` logits of the unimodal classifiers, where there are any; of
        classifiers of two modalities, a pair's name is first+other.
      present: `{modality: [B] bool}` for the entries of `unimodal`: where they have a loss.
      weights: `{modality: [B]}` in [0, 1], where the fusion weighs modalities.
      pooled: `{modality: [B, D]}` what the encoders made of each modality.
      aux_loss: [] added to the loss as it is.
      voted: `logits` is a vote over `unimodal`: it carries no loss of its own.
    """

    logits: jax.Array
    unimodal: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    present: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    weights: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    pooled: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    aux_loss: jax.Array = flax.struct.field(default_factory=lambda: jnp.zeros(()))
    voted: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def score(self) -> jax.Array:
        """[B] the predicted score of a regression, as it is: not clipped to [-3, 3]."""
        return self.logits[:, 0]
