"""What every fusion of encoded modalities shares: encoders below, a classifier above."""

from collections.abc import Mapping

import flax.linen as nn

from msa_jax.models.contract import Batch, Output
from msa_jax.models.encoders import encode


class FusionModel(nn.Module):
    """Encoders, a fusion head and a classifier, trained together.

    Attributes:
      encoders: one by modality.
      fusion: a module called as `fusion({modality: Encoded}, train) -> Fused`.
      classifier: of the fused features.
      frozen: the encoders keep their weights.
      context: over the utterances of a video, between fusion and classifier; None judges each
        utterance alone.
    """

    encoders: Mapping[str, nn.Module]
    fusion: nn.Module
    classifier: nn.Module
    frozen: bool = False
    context: nn.Module | None = None

    def __call__(self, batch: Batch, train: bool) -> Output:
        """Predicts from all modalities; an absent one is masked, never imputed."""
        encoded = encode(self.encoders, batch, train=train, frozen=self.frozen)
        fused = self.fusion(encoded, train)
        features = fused.features
        if self.context is not None:
            features = self.context(features, batch["utterance_mask"], train)
        return Output(
            logits=self.classifier(features, train),
            weights=fused.weights,
            pooled={m: e.pooled for m, e in encoded.items()},
            aux_loss=fused.aux_loss,
        )
