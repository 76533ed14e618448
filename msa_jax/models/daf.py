"""DAF, dynamic attention fusion (arXiv 2509.22729): every utterance weighs its own modalities."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax.models.contract import Encoded, Fused
from msa_jax.models.layers import Dropout, masked_softmax


class DynamicAttentionFusion(nn.Module):
    """A convex sum of the projected modalities, weighed anew for each utterance.

    With h_m the pooled vectors: g_m = f(W_m h_m + c_m), s_m = w . tanh(V g_m + b), alpha = softmax
    of s / temperature over the modalities present, z = sum of alpha_m g_m.

    The paper's equations were not to be had. Of the gates its abstract allows, this is the
    plainest: one softmax weight a modality and utterance. It is our reconstruction, and figures of
    ours are none of the paper's. V is shared: each W_m already brings its modality into the common
    space, so that one scorer compares like with like. W_m is the modality's own, so that a hidden
    layer of the classifier can still tell the terms of the sum apart, and let one change what
    another says.

    The other gates are the controls of an ablation, with the same projections and classifier.

    Attributes:
      width: F, of the projections and of the scorer.
      activation: f, of the projections.
      gate: dynamic, as above; uniform, 1 / M over those present; learned, a softmax of one number a
        modality, the same for all utterances but for what is absent.
      temperature: what scores are divided by; small is sharp.
      dropout: rate on the projections that are summed; the scorer sees them whole.
      dtype: of the computation.
    """

    any_widths: ClassVar[bool] = True
    width: int = 64
    activation: Literal["gelu", "relu", "linear"] = "gelu"
    gate: Literal["dynamic", "uniform", "learned"] = "dynamic"
    temperature: float = 1.0
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, F] and the weight of each modality; they sum to 1 over those present."""
        projected = jnp.stack([self._project(m, e.pooled) for m, e in encoded.items()], axis=1)
        present = jnp.stack([e.present for e in encoded.values()], axis=1)
        alpha = masked_softmax(self._score(projected) / self.temperature, present)
        kept = Dropout(self.dropout)(projected, deterministic=not train)
        return Fused(
            features=jnp.einsum("bm,bmf->bf", alpha.astype(self.dtype), kept),
            weights={m: alpha[:, i] for i, m in enumerate(encoded)},
        )

    def _project(self, modality: str, pooled: jax.Array) -> jax.Array:
        x = nn.Dense(self.width, dtype=self.dtype, name=f"project_{modality}")(pooled)
        if self.activation == "linear":
            return x
        return nn.relu(x) if self.activation == "relu" else nn.gelu(x, approximate=False)

    def _score(self, projected: jax.Array) -> jax.Array:
        """Scores [B, M] of the modalities `projected` [B, M, F]."""
        if self.gate == "dynamic":
            hidden = nn.tanh(nn.Dense(self.width, dtype=self.dtype, name="hidden")(projected))
            return nn.Dense(1, use_bias=False, dtype=self.dtype, name="score")(hidden)[..., 0]
        zeros = jnp.zeros(projected.shape[:2])
        if self.gate == "uniform":
            return zeros
        return zeros + self.param("score", nn.initializers.zeros, projected.shape[1:2])
