"""An utterance among the other utterances of its video, whatever made its features.

Poria et al., "Context-Dependent Sentiment Analysis in User-Generated Videos" (ACL 2017), pass the
features of a video's utterances through a bidirectional LSTM; a Transformer over them is ours. Such
a model reads the other utterances' features, never their labels, and its figures do not belong in
one table with those of models that judge each utterance alone.
"""

from typing import Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax.models.encoders import EncoderLayer
from msa_jax.models.layers import Dropout, LayerNorm, sinusoidal_positions


class Context(nn.Module):
    """Features of utterances to features that know of their neighbours.

    Attributes:
      kind: recurrent is a bidirectional LSTM, transformer self-attention over the video.
      width: of the result; half of it for each direction of the LSTM, so an even number.
      num_layers: of either kind.
      num_heads: of the transformer, a divisor of the width.
      residual: add the utterance's own features, projected.
      dropout: rate on the features that come in, between recurrent layers, and in the transformer's
        layers.
      dtype: of the computation.
    """

    kind: Literal["none", "recurrent", "transformer"] = "none"
    width: int = 64
    num_layers: int = 1
    num_heads: int = 4
    residual: bool = False
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """[B, D] of `features` [B, F], where B is V * U and `mask` is [V, U], true where an
        utterance is real. Fillers change nothing.
        """
        videos, utterances = mask.shape
        x = features.reshape(videos, utterances, -1)
        x = Dropout(self.dropout)(x, deterministic=not train)
        attends = self.kind == "transformer"
        if attends or self.residual:
            own = nn.Dense(self.width, dtype=self.dtype, name="project")(x)
        x = self._attend(own, mask, train) if attends else self._recur(x, mask, train)
        if self.residual:
            x = x + own
        return x.reshape(videos * utterances, -1)

    def _recur(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        lengths = mask.sum(axis=1)
        for layer in range(self.num_layers):
            if layer:
                x = Dropout(self.dropout)(x, deterministic=not train)
            directions: list[jax.Array] = []
            for name in ("forward", "backward"):
                cell = nn.OptimizedLSTMCell(
                    self.width // 2, dtype=self.dtype, name=f"{name}_{layer}"
                )
                run = nn.RNN(cell, reverse=name == "backward", keep_order=True)
                directions.append(cast(jax.Array, run(x, seq_lengths=lengths)))
            x = jnp.concatenate(directions, axis=-1)
        return x

    def _attend(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        x = x + jnp.asarray(sinusoidal_positions(mask.shape[1], self.width), self.dtype)
        for layer in range(self.num_layers):
            x = EncoderLayer(
                num_heads=self.num_heads,
                hidden=2 * self.width,
                dropout=self.dropout,
                dtype=self.dtype,
                name=f"layer_{layer}",
            )(x, mask, train)
        return LayerNorm(dtype=self.dtype, name="norm")(x)
