"""MBT: modalities that meet in a few bottleneck tokens (Nagrani et al., NeurIPS 2021)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax.errors import UserError
from msa_jax.models.contract import Encoded, Fused
from msa_jax.models.encoders import EncoderLayer
from msa_jax.models.layers import LayerNorm, pool_mean


class BottleneckFusion(nn.Module):
    """From `fusion_layer` on, each modality attends to itself and to tokens that all share.

    Each layer of modality m, with z_m its tokens and f the bottleneck tokens [N, D], is

        [z_m'; f_m] = Layer_m([z_m; f]),   f' = mean of f_m over the modalities present,

    and below `fusion_layer` z_m' = Layer_m(z_m). So `fusion_layer` goes from early (0) to late
    (`num_layers`). What one layer writes the next has to read: with `num_layers - 1`, too, the
    modalities only add up. Features are the mean over the modalities present of each one's pooled
    tokens: the paper averages the logits of one linear classifier over the modalities, which is the
    same, and a missing modality then changes no scale.

    Where we differ on purpose: each modality's real frames are averaged instead of a class token
    being read; modalities that an utterance lacks do not write to the bottleneck.

    Attributes:
      num_layers: of each modality.
      fusion_layer: the first layer that sees the bottleneck, from 0 to `num_layers`.
      num_bottlenecks: N.
      num_heads: H, a divisor of the width.
      dropout: rate on residual updates and hidden units.
      attention_dropout: rate on attention weights.
      dtype: of the computation.
    """

    num_layers: int = 4
    fusion_layer: int = 2
    num_bottlenecks: int = 4
    num_heads: int = 8
    dropout: float = 0.1
    attention_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fusion_layer > self.num_layers:
            raise UserError(
                f"config.model.fusion_layer={self.fusion_layer} lies above config.model.num_layers="
                f"{self.num_layers}: use 0 (early) to {self.num_layers} (late)."
            )

    @nn.compact
    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, D]; zeros where no modality is present."""
        tokens = {m: e.tokens for m, e in encoded.items()}
        present = jnp.stack([e.present for e in encoded.values()], axis=1)
        size, _, width = next(iter(tokens.values())).shape
        for layer in range(self.fusion_layer):
            for m, e in encoded.items():
                tokens[m] = self._layer(m, layer, width)(tokens[m], e.mask, train)
        if self.fusion_layer < self.num_layers:
            init = nn.initializers.normal(0.02)
            shared = self.param("bottlenecks", init, (self.num_bottlenecks, width))
            shared = jnp.broadcast_to(shared.astype(self.dtype), (size, *shared.shape))
            seen = jnp.ones(shared.shape[:2], bool)
        for layer in range(self.fusion_layer, self.num_layers):
            written = []
            for m, e in encoded.items():
                joined = jnp.concatenate([tokens[m], shared], axis=1)
                mask = jnp.concatenate([e.mask, seen], axis=1)
                joined = self._layer(m, layer, width)(joined, mask, train)
                tokens[m] = joined[:, : -self.num_bottlenecks]
                written.append(joined[:, -self.num_bottlenecks :])
            shared = mean_of_present(jnp.stack(written, axis=1), present)
        pooled = []
        for m, e in encoded.items():
            norm = LayerNorm(dtype=self.dtype, name=f"{m}_norm")
            pooled.append(pool_mean(norm(tokens[m]), e.mask))
        return Fused(features=mean_of_present(jnp.stack(pooled, axis=1), present))

    def _layer(self, modality: str, layer: int, width: int) -> EncoderLayer:
        return EncoderLayer(
            num_heads=self.num_heads,
            hidden=4 * width,
            activation="gelu",
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dtype=self.dtype,
            name=f"{modality}_layer_{layer}",
        )


def mean_of_present(states: jax.Array, present: jax.Array) -> jax.Array:
    """The mean [B, ...] of `states` [B, M, ...] over M where `present` [B, M], else zeros."""
    share = present / jnp.maximum(present.sum(axis=1, keepdims=True), 1)
    return jnp.einsum("bm...,bm->b...", states, share.astype(states.dtype))
