"""TFN's outer product of all modalities (EMNLP 2017), and TIMF's of two at a time."""

from collections.abc import Mapping
from functools import reduce
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax.models.contract import Batch, Encoded, Fused, Output
from msa_jax.models.encoders import encode
from msa_jax.models.late import decide


class TensorFusion(nn.Module):
    """z = [1; g_1] x [1; g_2] x ..., the outer product, of g_m = ReLU(W_m h_m + b_m).

    With h_m the pooled vectors: z holds every product of one entry from each modality and, because
    of the 1s, those of fewer modalities too. An absent modality is [1; 0]: products with it vanish.

    Zadeh et al., "Tensor Fusion Network" (EMNLP 2017). Their sub-networks stand below, as our
    encoders; the projection is ours, to choose the tensor's size apart from theirs. Their output
    6 sigmoid(o) - 3 is left out: our scores are not squashed, see `Output.score`.

    Attributes:
      width: of each g_m. F = (width + 1) ** M: 17 ** 3 = 4,913 for the default and three.
      dtype: of the computation.
    """

    any_widths: ClassVar[bool] = True
    width: int = 16
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, F], the first modality's entries slowest."""
        del train

        def with_one(modality: str, e: Encoded) -> jax.Array:
            dense = nn.Dense(self.width, dtype=self.dtype, name=f"project_{modality}")
            narrow = jnp.where(e.present[:, None], nn.relu(dense(e.pooled)), 0.0)
            return jnp.pad(narrow, [(0, 0), (1, 0)], constant_values=1.0)

        def outer(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.einsum("bi,bj->bij", a, b).reshape(a.shape[0], -1)

        return Fused(features=reduce(outer, [with_one(m, e) for m, e in encoded.items()]))


class TensorPairs(nn.Module):
    """TIMF: the first modality's tensor with each other one, a classifier each, a soft vote.

    Sun et al., "Two-Level Multimodal Fusion for Sentiment Analysis in Public Security" (Security
    and Communication Networks 2021, 6662337), of which we know the abstract: text x audio and text
    x vision, each classified, decided on softly. The losses of the classifiers add up, and no
    gradient passes through the vote. The encoders are shared: a pair learns with the other, unlike
    the classifiers of late fusion. A pair that lacks one modality votes by the other; one that
    lacks both does not vote.

    Attributes:
      encoders: one by modality, two or more; the first is the one that is paired.
      classifiers: one for each pair, by its other modality. The first modality's is not used.
      frozen: the encoders keep their weights.
      contexts: over the utterances of a video, as the classifiers; none judge each utterance alone.
      width: of the projections below a tensor, see `TensorFusion`.
    """

    any_widths: ClassVar[bool] = True
    encoders: Mapping[str, nn.Module]
    classifiers: Mapping[str, nn.Module]
    frozen: bool = False
    contexts: Mapping[str, nn.Module] | None = None
    width: int = 16

    @nn.compact
    def __call__(self, batch: Batch, train: bool) -> Output:
        """The mean probabilities, or scores, of the pairs; `unimodal` has a pair as first+other."""
        encoded = encode(self.encoders, batch, train=train, frozen=self.frozen)
        first, *others = encoded
        logits, present = {}, {}
        for other in others:
            pair = {m: encoded[m] for m in (first, other)}
            fusion = TensorFusion(
                self.width, dtype=encoded[other].pooled.dtype, name=f"pair_{other}"
            )
            name, features = f"{first}+{other}", fusion(pair, train).features
            if self.contexts:
                features = self.contexts[other](features, batch["utterance_mask"], train)
            logits[name] = self.classifiers[other](features, train)
            present[name] = encoded[first].present | encoded[other].present
        return Output(
            logits=decide(logits, present, "soft"),
            unimodal=logits,
            present=present,
            pooled={m: e.pooled for m, e in encoded.items()},
            voted=True,
        )
