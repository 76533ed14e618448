"""A2, attention fusion (arXiv 2501.08085): A1 with multi-head attention over the modalities."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from msa_jax.models.contract import Encoded, Fused
from msa_jax.models.layers import Dropout, LayerNorm
from msa_jax.models.multi_head import MultiHeadAttention


class AttentionFusion(nn.Module):
    """Each modality attends to those present, itself included; the results are joined as in A1.

    With h_m the pooled vectors: H = [h_text, h_audio, h_vision], A = MHA(H, H, H),
    z = [LN(h_m + a_m) for each m]. The weight of modality m is the attention it receives, averaged
    over heads and over the present modalities that attend; weights sum to 1 over those present.

    The paper names the multi-head attention and no more: queries, residual and norm are ours.

    Attributes:
      num_heads: H, a divisor of the width.
      dropout: rate on the attended vectors.
      dtype: of the computation.
    """

    num_heads: int = 4
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, M * D] and the weight of each modality."""
        states = jnp.stack([e.pooled for e in encoded.values()], axis=1)
        present = jnp.stack([e.present for e in encoded.values()], axis=1)
        attention = MultiHeadAttention(self.num_heads, dtype=self.dtype, name="attention")
        attended, weights = attention(states, states, present, train)
        attended = Dropout(self.dropout)(attended, deterministic=not train)
        norm = LayerNorm(dtype=self.dtype, name="norm")
        fused = jnp.where(present[..., None], norm(states + attended), 0.0)
        asking = present / jnp.maximum(present.sum(axis=1, keepdims=True), 1)
        received = jnp.einsum("bhqs,bq->bs", weights, asking) / self.num_heads
        return Fused(
            features=fused.reshape(fused.shape[0], -1),
            weights={m: received[:, i] for i, m in enumerate(encoded)},
        )
