"""A1 and A2 at every step of a sequence: what arXiv 2501.08085 leaves to future work."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax.models.attention import AttentionFusion
from msa_jax.models.contract import Encoded, Fused
from msa_jax.models.early import EarlyFusion
from msa_jax.models.encoders import EncoderLayer
from msa_jax.models.layers import LayerNorm, pool_mean
from msa_jax.models.multi_head import MultiHeadAttention

# Tokens [B, T, D] and mask [B, T] of each modality, all of one T.
Steps = dict[str, tuple[jax.Array, jax.Array]]


class TemporalFusion(nn.Module):
    """Modalities are fused step by step, and Transformer layers then run over the fused steps.

    With x_m,t the tokens of modality m at step t:

        z_t = W fuse(x_text,t, x_audio,t, x_vision,t),   z = mean over steps of Layers(z_1 .. z_T)

    where `fuse` is A1 (joined) or A2 (attention over the modalities, then joined). What a step
    misses is masked in it. A2's weights are averaged over the steps.

    `alignment` says what a step is:
      - frames: the t-th frame of every modality, for data aligned to words. All T must be equal;
        a modality of one frame, T = 1, stands at every step of the others.
      - attention: a frame of the first modality that the utterance has; of every other modality,
        what that frame's cross-attention finds there.

    The paper names temporal fusion as future work without saying how: all of this is ours.

    Attributes:
      fusion: early (A1) or attention (A2).
      alignment: frames or attention.
      num_layers: over the fused steps.
      num_heads: H, a divisor of the width.
      dropout: rate on residual updates and hidden units.
      attention_dropout: rate on attention weights over time.
      dtype: of the computation.
    """

    fusion: Literal["early", "attention"] = "attention"
    alignment: Literal["frames", "attention"] = "attention"
    num_layers: int = 2
    num_heads: int = 8
    dropout: float = 0.1
    attention_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, D], and with fusion=attention the weight of each modality.

        Raises:
          UserError: with alignment=frames, if two modalities differ in T.
        """
        steps = (
            by_frame(encoded) if self.alignment == "frames" else self._by_attention(encoded, train)
        )
        size, length, width = next(iter(steps.values()))[0].shape
        rows = {
            m: as_example(tokens.reshape(-1, width), mask.reshape(-1))
            for m, (tokens, mask) in steps.items()
        }
        if self.fusion == "early":
            fused = EarlyFusion(dtype=self.dtype, name="fuse")(rows, train)
        else:
            attention = AttentionFusion(self.num_heads, self.dropout, dtype=self.dtype, name="fuse")
            fused = attention(rows, train)
        mask = jnp.stack([mask for _, mask in steps.values()]).any(axis=0)
        x = nn.Dense(width, dtype=self.dtype, name="join")(fused.features)
        x = x.reshape(size, length, width)
        for layer in range(self.num_layers):
            x = EncoderLayer(
                num_heads=self.num_heads,
                hidden=4 * width,
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                dtype=self.dtype,
                name=f"layer_{layer}",
            )(x, mask, train)
        x = LayerNorm(dtype=self.dtype, name="norm")(x)
        weights = {
            m: pool_mean(weight.reshape(size, length, 1), mask)[:, 0]
            for m, weight in fused.weights.items()
        }
        return Fused(features=pool_mean(x, mask), weights=weights)

    def _by_attention(self, encoded: Mapping[str, Encoded], train: bool) -> Steps:
        longest = max(e.tokens.shape[1] for e in encoded.values())
        present = jnp.stack([e.present for e in encoded.values()])
        first = jnp.argmax(present, axis=0)  # of an utterance that has nothing: 0, all masked
        asking = jnp.zeros((), self.dtype)
        asks = jnp.zeros((), bool)
        for i, e in enumerate(encoded.values()):
            more = longest - e.tokens.shape[1]
            tokens = jnp.pad(e.tokens, ((0, 0), (0, more), (0, 0)))
            mask = jnp.pad(e.mask, ((0, 0), (0, more)))
            asking = jnp.where((first == i)[:, None, None], tokens, asking)
            asks = jnp.where((first == i)[:, None], mask, asks)
        steps: Steps = {}
        for i, (m, e) in enumerate(encoded.items()):
            found = asking
            if i:
                attention = MultiHeadAttention(
                    self.num_heads, self.attention_dropout, dtype=self.dtype, name=f"{m}_attention"
                )
                attended = attention(asking, e.tokens, e.mask, train)[0]
                found = jnp.where((first == i)[:, None, None], asking, attended)
            steps[m] = (found, asks & e.present[:, None])
        return steps


def by_frame(encoded: Mapping[str, Encoded]) -> Steps:
    """The frames of aligned modalities as they are, single frames at every step of the others.

    That the data are aligned, `msa_jax.system.check_aligned` sees: here a batch in which a modality
    is absent from the longest utterances is padded to less. An utterance that has single frames
    alone has one step.
    """
    longest = max(e.tokens.shape[1] for e in encoded.values())

    def padded(x: jax.Array) -> jax.Array:
        missing = 0 if x.shape[1] == 1 else longest - x.shape[1]
        return jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))

    masks = {m: padded(e.mask) for m, e in encoded.items()}
    steps = jnp.stack([mask for mask in masks.values() if mask.shape[1] == longest]).any(axis=0)
    steps |= (jnp.arange(longest) == 0) & ~steps.any(axis=1, keepdims=True)
    size = steps.shape[0]
    return {
        m: (
            jnp.broadcast_to(padded(e.tokens), (size, longest, e.tokens.shape[-1])),
            steps & masks[m],
        )
        for m, e in encoded.items()
    }


def as_example(vectors: jax.Array, mask: jax.Array) -> Encoded:
    """Vectors [B, D], real where `mask` [B], as the pooled states of examples."""
    kept = jnp.where(mask[:, None], vectors, 0.0)
    return Encoded(tokens=kept[:, None], pooled=kept, mask=mask[:, None])
