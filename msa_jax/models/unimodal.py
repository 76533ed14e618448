"""The base paper's model of one modality."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn

from msa_jax.models.contract import Batch, Output
from msa_jax.models.encoders import encode


class ModalityTransformer(nn.Module):
    """Encoder and classifier of a single modality (arXiv 2501.08085).

    Attributes:
      encoders, classifiers: one of each, by modality.
      frozen: the encoder keeps its weights.
      contexts: over the utterances of a video, by modality; none judge each utterance alone.
    """

    any_widths: ClassVar[bool] = True
    encoders: Mapping[str, nn.Module]
    classifiers: Mapping[str, nn.Module]
    frozen: bool = False
    contexts: Mapping[str, nn.Module] | None = None

    def __call__(self, batch: Batch, train: bool) -> Output:
        """Predicts from the one modality; without it, from what the classifier knows of none."""
        encoded = encode(self.encoders, batch, train=train, frozen=self.frozen)
        ((modality, tokens),) = encoded.items()
        features = tokens.pooled
        if self.contexts:
            features = self.contexts[modality](features, batch["utterance_mask"], train)
        logits = self.classifiers[modality](features, train)
        return Output(logits=logits, pooled={modality: tokens.pooled})
