"""The encoder of a modality (arXiv 2501.08085): linear, positions, Transformer, pooling."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax import sharding
from msa_jax.data.schema import mask_key
from msa_jax.models.contract import Batch, Encoded
from msa_jax.models.layers import (
    AttentionPool,
    Dense,
    Dropout,
    LayerNorm,
    pool_last,
    pool_mean,
    sinusoidal_positions,
)
from msa_jax.models.multi_head import MultiHeadAttention


class EncoderLayer(nn.Module):
    """Attention and a feed-forward block, each with a residual and a layer norm.

    Attention is to the sequence itself, or to a source. Equals `torch.nn.TransformerEncoderLayer`
    with the same weights (tested) where there is no source.
    """

    num_heads: int
    hidden: int
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["relu", "gelu"] = "relu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, train: bool, source: jax.Array | None = None
    ) -> jax.Array:
        """[B, T, D] to [B, T, D].

        Args:
          x: [B, T, D] the sequence that asks.
          mask: [B, S] or [B, T, S]; where it is false nothing is attended to.
          train: whether to drop out.
          source: [B, S, D] what is asked, under the same first norm as `x`; None: `x` itself.
        """

        def attend(x: jax.Array) -> jax.Array:
            attention = MultiHeadAttention(
                self.num_heads, self.attention_dropout, dtype=self.dtype, name="attention"
            )
            return attention(x, x if keys is None else keys, mask, train)[0]

        def feed_forward(x: jax.Array) -> jax.Array:
            x = Dense(self.hidden, dtype=self.dtype, name="expand")(x)
            x = nn.relu(x) if self.activation == "relu" else nn.gelu(x, approximate=False)
            x = Dropout(self.dropout)(x, deterministic=not train)
            return Dense(features, dtype=self.dtype, name="contract")(x)

        features, keys = x.shape[-1], source
        for name, block in (("attention_norm", attend), ("feed_forward_norm", feed_forward)):
            norm = LayerNorm(dtype=self.dtype, name=name)
            if block is attend and source is not None and self.norm == "pre":
                keys = norm(source)
            update = block(norm(x)) if self.norm == "pre" else block(x)
            x = x + Dropout(self.dropout)(update, deterministic=not train)
            x = norm(x) if self.norm == "post" else x
        return x


class Encoder(nn.Module):
    """Frames of one modality to tokens and one pooled vector.

    Attributes:
      width: D; not read where `kernel` is 0.
      kernel: frames that the first layer sees at once, an odd number; 1 is linear, more a
        convolution over time that keeps T, at whose ends, padding included, stand zeros. 0 is no
        first layer: D is C, and nothing but dropout and norm changes the frames.
      num_layers: Transformer layers; 0 leaves the first layer: for frozen embeddings, or below a
        fusion that has all the layers.
      layers: how they are compiled. Unrolled, each anew, under its own name (`layer_0`). Scanned,
        once, as the body of a loop, with parameters stacked [L, ...] as `layers`: the same function
        of the same weights, for deep stacks. The train step of three encoders of 12 layers at
        width 64 compiles in 6 s and not 31 s on two cores, but takes 0.53 s and not 0.38 s there.
        Weights of the one do not load into the other.
      remat: what of a layer the backward pass computes again, to save memory: nothing; what is
        cheap, all but products with weights; or everything, so that of each layer its input alone
        is kept, for a third more arithmetic.
      num_heads: H, a divisor of the width.
      hidden: width of the feed-forward layers.
      norm: pre (with a last norm after all layers, be it none) or post.
      activation: of the feed-forward layers.
      positions: sinusoidal, learned or none, added after the linear layer.
      pooling: mean over the real frames, the last real frame, or an attention that is learnt.
      dropout: rate on embedded frames and on residual updates.
      attention_dropout: rate on attention weights; 0 is faster, torch's layer uses `dropout`.
      input_dropout: rate on the features themselves.
      max_length: the longest T, of which learned positions have a table.
      dtype: of the computation.
    """

    width: int = 64
    kernel: int = 1
    num_layers: int = 2
    layers: Literal["unrolled", "scanned"] = "unrolled"
    remat: Literal["nothing", "cheap", "everything"] = "nothing"
    num_heads: int = 8
    hidden: int = 128
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["relu", "gelu"] = "relu"
    positions: Literal["sinusoidal", "learned", "none"] = "sinusoidal"
    pooling: Literal["mean", "last", "attention"] = "mean"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    input_dropout: float = 0.0
    max_length: int = 50
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, mask: jax.Array, train: bool) -> Encoded:
        """Encodes `frames` [B, T, C] where `mask` [B, T] is true; padding changes nothing."""
        x = jnp.where(mask[..., None], frames, 0.0)  # 0 * NaN is NaN: attention would spread it
        x = Dropout(self.input_dropout)(x, deterministic=not train)
        if self.kernel == 0:
            x = x.astype(self.dtype)
        elif self.kernel == 1:
            x = Dense(self.width, dtype=self.dtype, name="project")(x)
        else:
            x = nn.Conv(self.width, (self.kernel,), dtype=self.dtype, name="project")(x)
        if self.positions != "none":
            x = x + self._positions(frames.shape[1]).astype(self.dtype)
        x = Dropout(self.dropout)(x, deterministic=not train)
        x = self._layers(x, mask, train)
        if self.norm == "pre":
            x = LayerNorm(dtype=self.dtype, name="norm")(x)
        return Encoded(tokens=x, pooled=self._pool(x, mask), mask=mask)

    def _layers(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        scanned = self.layers == "scanned"

        def apply(layer: EncoderLayer, x: jax.Array) -> jax.Array:
            return layer(x, mask, train)

        def saving(layer: EncoderLayer, x: jax.Array) -> jax.Array:
            if self.remat == "nothing":
                return apply(layer, x)
            products = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            policy = products if self.remat == "cheap" else None
            # What stands in a loop cannot be merged with what is outside it.
            return nn.remat(apply, policy=policy, prevent_cse=not scanned)(layer, x)

        if not scanned:
            for layer in range(self.num_layers):
                x = saving(self._layer(f"layer_{layer}"), x)
        elif self.num_layers:
            scan = nn.scan(
                lambda layer, x, _: (saving(layer, sharding.keep_rows(x)), None),
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                length=self.num_layers,
            )
            x, _ = scan(self._layer("layers"), x, None)
        return x

    def _layer(self, name: str) -> EncoderLayer:
        return EncoderLayer(
            num_heads=self.num_heads,
            hidden=self.hidden,
            norm=self.norm,
            activation=self.activation,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dtype=self.dtype,
            name=name,
        )

    def _pool(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        if self.pooling == "attention":
            return AttentionPool(dtype=self.dtype, name="pool")(x, mask)
        return (pool_mean if self.pooling == "mean" else pool_last)(x, mask)

    def _positions(self, length: int) -> jax.Array:
        if self.positions == "sinusoidal":
            return jnp.asarray(sinusoidal_positions(length, self.width))
        init = nn.initializers.normal(0.02)
        return self.param("positions", init, (self.max_length, self.width))[:length]


def encode(
    encoders: Mapping[str, nn.Module], batch: Batch, *, train: bool, frozen: bool = False
) -> dict[str, Encoded]:
    """Encodes each modality of `batch` by its encoder; frozen ones neither learn nor drop out."""
    encoded = {
        modality: encoder(batch[modality], batch[mask_key(modality)], train and not frozen)
        for modality, encoder in encoders.items()
    }
    return jax.lax.stop_gradient(encoded) if frozen else encoded
