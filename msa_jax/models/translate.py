"""TEDT: other modalities are translated towards text (Wang et al., Cognitive Computation 2023)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax.models.contract import Encoded, Fused
from msa_jax.models.encoders import EncoderLayer
from msa_jax.models.layers import LayerNorm, pool_mean, sinusoidal_positions


class TranslationFusion(nn.Module):
    """The first modality is primary; the others are translated towards it and reinforce it.

    With x_p the primary's tokens (text) and x_m another's:

        t_m = Decoder(positions of the primary's steps, Encoder(x_m))     translation
        r_m = Layer(x_p, t_m)            cross-attention of the primary to the translation
        g_m = sigmoid(w . [x_p; r_m])    the filter, a number a step; 0 where m is absent
        z   = Layers(W [x_p; g_m * r_m for each m]), averaged over the steps

    `aux_loss` is `translation_weight` times the sum over m of the squared error of W' t_m against
    x_p, to which it gives no gradient, over the utterances that have both.

    A reconstruction of ours: of the paper its abstract alone was at hand, which names the parts
    (translation by an encoder and decoder, modality reinforcement cross-attention, a filter) but
    neither sizes nor equations. The decoder asks with positions, not with shifted text as a
    decoder of language does, so that text cannot leak into its own translation; its layer is one of
    self-attention and one of cross-attention, each with its feed-forward block. An utterance
    without the primary has one step there, a vector that is learnt, which still gathers the others.

    Attributes:
      num_layers: of each encoder, decoder, reinforcement and of the joined sequence.
      num_heads: H, a divisor of the width.
      translation_weight: of the translation loss.
      dropout: rate on residual updates and hidden units.
      attention_dropout: rate on attention weights.
      dtype: of the computation.
    """

    num_layers: int = 1
    num_heads: int = 8
    translation_weight: float = 0.1
    dropout: float = 0.1
    attention_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, D] and the weighted translation loss."""
        (_, primary), *others = encoded.items()
        length, width = primary.tokens.shape[1:]
        first = jnp.arange(length) == 0
        steps = primary.mask | (first & ~primary.present[:, None])
        missing = self.param("missing", nn.initializers.normal(1.0), (width,)).astype(self.dtype)
        text = jnp.where(primary.present[:, None, None], primary.tokens, missing)
        positions = jnp.asarray(sinusoidal_positions(length, width), self.dtype)
        joined, loss = [text], jnp.zeros(())
        for m, other in others:
            heard = other.tokens
            told = jnp.broadcast_to(positions, text.shape)
            for i in range(self.num_layers):
                heard = self._layer(f"{m}_encoder_{i}", width)(heard, other.mask, train)
            for i in range(self.num_layers):
                told = self._layer(f"{m}_decoder_{i}", width)(told, steps, train)
                ask = self._layer(f"{m}_decoder_source_{i}", width)
                told = ask(told, other.mask, train, source=heard)
            guess = nn.Dense(width, dtype=self.dtype, name=f"{m}_translation")(told)
            loss += translation_loss(guess, primary, other.present)
            reinforced = text
            for i in range(self.num_layers):
                ask = self._layer(f"{m}_reinforcement_{i}", width)
                reinforced = ask(reinforced, steps, train, source=told)
            both = jnp.concatenate([text, reinforced], axis=-1)
            gate = nn.sigmoid(nn.Dense(1, dtype=self.dtype, name=f"{m}_filter")(both))
            joined.append(jnp.where(other.present[:, None, None], gate * reinforced, 0.0))
        x = nn.Dense(width, dtype=self.dtype, name="join")(jnp.concatenate(joined, axis=-1))
        for i in range(self.num_layers):
            x = self._layer(f"layer_{i}", width)(x, steps, train)
        x = LayerNorm(dtype=self.dtype, name="norm")(x)
        return Fused(features=pool_mean(x, steps), aux_loss=self.translation_weight * loss)

    def _layer(self, name: str, width: int) -> EncoderLayer:
        return EncoderLayer(
            num_heads=self.num_heads,
            hidden=4 * width,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dtype=self.dtype,
            name=name,
        )


def translation_loss(guess: jax.Array, primary: Encoded, present: jax.Array) -> jax.Array:
    """Mean squared error [] of `guess` [B, T, D] against the primary's tokens.

    An utterance's mean over its real steps, averaged over the utterances that have the primary and
    are `present` [B]; 0 if there are none.
    """
    error = guess.astype(jnp.float32) - jax.lax.stop_gradient(primary.tokens.astype(jnp.float32))
    each = pool_mean(error**2, primary.mask).mean(axis=-1)
    both = present & primary.present
    return jnp.where(both, each, 0.0).sum() / jnp.maximum(both.sum(), 1)
