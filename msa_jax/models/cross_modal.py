"""MulT: cross-modal Transformers between every two modalities (Tsai et al., ACL 2019)."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax.models.contract import Encoded, Fused
from msa_jax.models.encoders import EncoderLayer
from msa_jax.models.layers import Dropout, LayerNorm, pool_last, sinusoidal_positions


class CrossModalFusion(nn.Module):
    """Each modality asks each other one by a stack of cross-attention layers, then itself.

    With x_a, x_b the tokens of a target a and a source b, times sqrt(D), plus positions, each of
    `num_layers` layers is

        y = z + MHA(LN(z), LN(x_b), LN(x_b)),   z' = y + FF(LN'(y)),   from z = x_a,

    FF being 4 D wide with ReLU; a last norm makes z_ba. The source is x_b at every layer, under
    that layer's own norm. The stacks of a target are joined, [z_ba; z_ca], and go through
    `num_self_layers` such layers of self-attention; the last step of every target is taken, and of
    these, joined to h, come the features h + W2 relu(W1 h). One modality alone is both stacks' x_a.

    `variant` says whose padding counts:
      - masked: padding is never attended to, positions are sinusoidal, the last step is the last
        real one. A target without any frames gives zeros. No causal mask: the paper has none.
      - faithful: as MMSA runs the model. No positions and no padding masks: padded frames are
        frames of zeros, and the last one is the last step, so predictions change with the padding:
        set config.data.buckets=1, which pads all to the longest, as MMSA pads to a fixed length.
        Step q sees no step beyond q + |T_a - T_b|.

    Where we differ on purpose: residuals are added to z and not to LN(z), as the authors' code has
    it and the paper's equation has not; positions alternate sine and cosine; the encoder's
    convolution keeps T and has a bias; the temporal convolution has one width for all modalities.

    Attributes:
      num_layers: of each stack between two modalities.
      num_self_layers: of the stack above them.
      num_heads: H, a divisor of the width.
      variant: masked or faithful.
      dropout: rate on embedded tokens, residual updates and hidden units.
      attention_dropout: rate on attention weights.
      output_dropout: rate within the last residual block.
      dtype: of the computation.
    """

    num_layers: int = 4
    num_self_layers: int = 3
    num_heads: int = 8
    variant: Literal["masked", "faithful"] = "masked"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    output_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, F]: F is M (M - 1) D, or D for one modality alone."""
        faithful = self.variant == "faithful"
        tokens = {m: e.tokens for m, e in encoded.items()}
        if faithful:
            tokens = {m: jnp.where(e.mask[..., None], tokens[m], 0.0) for m, e in encoded.items()}
        last = []
        for target, own in encoded.items():
            sources = [m for m in encoded if m != target]
            joined = [tokens[target]]
            if sources:
                joined = [
                    self._stack(f"{target}_from_{m}", self.num_layers)(
                        tokens[target], encoded[m].mask, train, source=tokens[m]
                    )
                    for m in sources
                ]
            memory = self._stack(f"{target}_memory", self.num_self_layers)
            steps = memory(jnp.concatenate(joined, axis=-1), own.mask, train)
            last.append(steps[:, -1] if faithful else pool_last(steps, own.mask))
        features = jnp.concatenate(last, axis=-1)
        hidden = nn.relu(nn.Dense(features.shape[-1], dtype=self.dtype, name="expand")(features))
        hidden = Dropout(self.output_dropout)(hidden, deterministic=not train)
        update = nn.Dense(features.shape[-1], dtype=self.dtype, name="contract")(hidden)
        return Fused(features=features + update)

    def _stack(self, name: str, num_layers: int) -> "Stack":
        return Stack(
            num_layers=num_layers,
            num_heads=self.num_heads,
            variant=self.variant,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dtype=self.dtype,
            name=name,
        )


class Stack(nn.Module):
    """Layers of attention to a source, or to the sequence itself; see `CrossModalFusion`."""

    num_layers: int
    num_heads: int
    variant: Literal["masked", "faithful"]
    dropout: float
    attention_dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, train: bool, source: jax.Array | None = None
    ) -> jax.Array:
        """[B, T, D] of `x` [B, T, D]; `mask` [B, S] is that of `source` [B, S, D], or of `x`."""

        def embed(x: jax.Array) -> jax.Array:
            _, length, width = x.shape
            x = x * width**0.5
            if self.variant == "masked":
                x = x + jnp.asarray(sinusoidal_positions(length, width), x.dtype)
            return Dropout(self.dropout)(x, deterministic=not train)

        x = embed(x)
        source = None if source is None else embed(source)
        if self.variant == "faithful":
            mask = causal_mask(x.shape[1], mask.shape[1])
        for layer in range(self.num_layers):
            x = EncoderLayer(
                num_heads=self.num_heads,
                hidden=4 * x.shape[-1],
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                dtype=self.dtype,
                name=f"layer_{layer}",
            )(x, mask, train, source=source)
        return LayerNorm(dtype=self.dtype, name="norm")(x)


def causal_mask(queries: int, keys: int) -> jax.Array:
    """[1, Q, S]: step q sees the steps up to q + |Q - S|, as the authors' code has it."""
    return jnp.tri(queries, keys, abs(queries - keys), dtype=bool)[None]
