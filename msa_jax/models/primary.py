"""MODS: each utterance chooses its primary modality (AAAI 2026, arXiv 2511.06328)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax.models.contract import Encoded, Fused
from msa_jax.models.encoders import EncoderLayer
from msa_jax.models.layers import AttentionPool, Dropout, LayerNorm, masked_softmax
from msa_jax.models.multi_head import MultiHeadAttention


class PrimaryFusion(nn.Module):
    """Modalities are compressed, weighed, and gathered around the one that weighs most.

    1. Compression: h_m [N, D], `num_nodes` learnt queries that attend to the modality's tokens.
    2. Selection: w = softmax over those present of MLP([AttentionPool(h_m) for each m]), and each
       h_m is multiplied by w_m. The modality of the greatest w is the utterance's primary p, the
       others are its auxiliaries a.
    3. `num_layers` layers centred on the primary:
       p' = p + MHA(LN(p), LN(p)) + sum of MHA'(LN(p), a) over a,   p' += FF(LN(p')),
       a' = a + MHA''(LN(a), p'),                                   a' += FF'(LN(a'));
       the last layer leaves the auxiliaries.
    4. Features are the mean of LN(p)'s nodes.

    `aux_loss` is `contrast_weight` times InfoNCE: the features predict each modality's mean node,
    which has to be told from those of the other utterances of the batch.

    Where we differ on purpose: the paper compresses by capsule routing and a graph convolution,
    where we attend with learnt queries, and leaves text as it is; auxiliaries share their weights,
    since an utterance's choice, not a place, says which modality they are. Auxiliaries are asked as
    they are, not normalised: a norm would undo the weight, and the selector would learn nothing.

    Attributes:
      num_nodes: N.
      num_layers: at least 1 is sensible; 0 leaves the primary's nodes.
      num_heads: H, a divisor of the width.
      contrast_weight: of InfoNCE; the paper has 0.1 for CMU-MOSI and CMU-MOSEI.
      temperature: of InfoNCE's cosines.
      dropout: rate on residual updates and hidden units.
      attention_dropout: rate on attention weights.
      dtype: of the computation.
    """

    num_nodes: int = 8
    num_layers: int = 3
    num_heads: int = 8
    contrast_weight: float = 0.1
    temperature: float = 0.1
    dropout: float = 0.1
    attention_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, D], the weight of each modality, and the weighted InfoNCE."""
        present = jnp.stack([e.present for e in encoded.values()], axis=1)
        nodes = jnp.stack([self._compress(m, e, train) for m, e in encoded.items()], axis=1)
        weights = self._select(nodes, present)
        states = nodes * weights[..., None, None].astype(self.dtype)
        order = jnp.argsort(-weights, axis=1, stable=True)
        states = jnp.take_along_axis(states, order[:, :, None, None], axis=1)
        there = jnp.take_along_axis(present, order, axis=1)
        primary, auxiliaries = states[:, 0], states[:, 1:]
        for layer in range(self.num_layers):
            primary, auxiliaries = PrimaryLayer(
                num_heads=self.num_heads,
                answers=layer + 1 < self.num_layers,
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                dtype=self.dtype,
                name=f"layer_{layer}",
            )(primary, auxiliaries, there, train)
        norm = LayerNorm(dtype=self.dtype, name="norm")
        features = jnp.where(there[:, :1], norm(primary).mean(axis=1), 0.0)
        contrast = jnp.zeros(())
        for i, m in enumerate(encoded):
            guess = nn.Dense(features.shape[-1], dtype=self.dtype, name=f"{m}_guess")(features)
            target = nodes[:, i].mean(axis=1)
            contrast += info_nce(guess, target, present[:, i], self.temperature)
        return Fused(
            features=features,
            weights={m: weights[:, i] for i, m in enumerate(encoded)},
            aux_loss=self.contrast_weight * contrast,
        )

    def _compress(self, modality: str, encoded: Encoded, train: bool) -> jax.Array:
        """[B, N, D] nodes of a modality; zeros where it is absent."""
        size, _, width = encoded.tokens.shape
        init = nn.initializers.normal(1.0)
        queries = self.param(f"{modality}_queries", init, (self.num_nodes, width))
        queries = jnp.broadcast_to(queries.astype(self.dtype), (size, *queries.shape))
        nodes = EncoderLayer(
            num_heads=self.num_heads,
            hidden=4 * width,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dtype=self.dtype,
            name=f"{modality}_compress",
        )(queries, encoded.mask, train, source=encoded.tokens)
        norm = LayerNorm(dtype=self.dtype, name=f"{modality}_norm")
        return jnp.where(encoded.present[:, None, None], norm(nodes), 0.0)

    def _select(self, nodes: jax.Array, present: jax.Array) -> jax.Array:
        """[B, M] float32 weights of `nodes` [B, M, N, D], which sum to 1 over those present."""
        size, count, number, width = nodes.shape
        seen = jnp.ones((size, number), bool)
        pooled = [
            AttentionPool(dtype=self.dtype, name=f"select_pool_{i}")(nodes[:, i], seen)
            for i in range(count)
        ]
        hidden = nn.Dense(width, dtype=self.dtype, name="select_hidden")(
            jnp.concatenate(pooled, axis=-1)
        )
        return masked_softmax(
            nn.Dense(count, dtype=jnp.float32, name="select")(nn.relu(hidden)), present
        )


class PrimaryLayer(nn.Module):
    """Auxiliaries tell the primary, then the primary tells them; see `PrimaryFusion`.

    Attributes:
      answers: whether the primary tells the auxiliaries; else they are returned as they are.
    """

    num_heads: int
    answers: bool
    dropout: float
    attention_dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, primary: jax.Array, auxiliaries: jax.Array, there: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """The primary [B, N, D] and the auxiliaries [B, M - 1, N, D].

        `there` [B, M] says which of the primary and the auxiliaries are present.
        """
        size, others, number, width = auxiliaries.shape
        masks = jnp.broadcast_to(there[..., None], (*there.shape, number))

        def norm(name: str) -> LayerNorm:
            return LayerNorm(dtype=self.dtype, name=name)

        def attention(name: str) -> MultiHeadAttention:
            return MultiHeadAttention(
                self.num_heads, self.attention_dropout, dtype=self.dtype, name=name
            )

        def drop(x: jax.Array) -> jax.Array:
            return Dropout(self.dropout)(x, deterministic=not train)

        def feed_forward(x: jax.Array, role: str) -> jax.Array:
            hidden = norm(f"{role}_feed_forward_norm")(x)
            hidden = nn.relu(nn.Dense(4 * width, dtype=self.dtype, name=f"{role}_expand")(hidden))
            return x + drop(
                nn.Dense(width, dtype=self.dtype, name=f"{role}_contract")(drop(hidden))
            )

        asking = norm("primary_norm")(primary)
        update = attention("self_attention")(asking, asking, masks[:, 0], train)[0]
        if others:
            ask = attention("primary_attention")
            for i in range(others):
                told = ask(asking, auxiliaries[:, i], masks[:, i + 1], train)[0]
                update += jnp.where(there[:, i + 1, None, None], told, 0.0)
        primary = feed_forward(primary + drop(update), "primary")
        if others and self.answers:
            rows = auxiliaries.reshape(size * others, number, width)
            source = jnp.repeat(primary, others, axis=0)
            mask = jnp.repeat(masks[:, 0], others, axis=0)
            told = attention("auxiliary_attention")(
                norm("auxiliary_norm")(rows), source, mask, train
            )[0]
            rows = feed_forward(rows + drop(told), "auxiliary")
            auxiliaries = rows.reshape(auxiliaries.shape)
        return primary, auxiliaries


def info_nce(
    guess: jax.Array, target: jax.Array, present: jax.Array, temperature: float
) -> jax.Array:
    """InfoNCE [] of `guess` [B, D] against `target` [B, D], by cosine, negatives from the batch.

    Rows where `present` [B] is false neither guess nor are guessed among; 0 if there are none. With
    gradients accumulated over parts of a batch, negatives are those of the part.
    """

    def unit(x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt((x**2).sum(axis=-1, keepdims=True) + 1e-6)

    cosines = jnp.einsum("bd,nd->bn", unit(guess), unit(target))
    scores = jnp.where(present[None, :], cosines / temperature, -1e30)
    each = -jnp.diagonal(jax.nn.log_softmax(scores, axis=-1))
    return jnp.where(present, each, 0.0).sum() / jnp.maximum(present.sum(), 1)
