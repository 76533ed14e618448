"""AGFN's dual gate (arXiv 2510.01677): how certain a modality looks, and how much it matters."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax.models.contract import Encoded, Fused
from msa_jax.models.layers import masked_softmax


class GatedFusion(nn.Module):
    """A learnt mixture of an entropy gate and an importance gate.

    With h_m the pooled vectors, zeros where absent:
    - entropy gate: p_m = |h_m| / sum of |h_m|, H_m = - sum of p_m log p_m, and
      alpha = softmax over the modalities present of (v . h_m + c) exp(-H_m / temperature);
      z_entropy = sum of alpha_m h_m.
    - importance gate: beta = sigmoid(MLP([h_1; h_2; ...])), one number a modality;
      z_importance = U [beta_1 h_1; beta_2 h_2; ...] + d.
    z = a z_entropy + (1 - a) z_importance, with one learnt a in (0, 1).

    The weight of modality m is a alpha_m + (1 - a) beta_m / sum of beta over those present: weights
    sum to 1 over those present.

    The paper's LSTMs and cross-modal attention below the gates and its adversarial loss are left
    out: this is the fusion alone. It was read of in a summary, so that the linear score within the
    entropy gate, the MLP's one hidden ReLU layer and a's sigmoid are ours.

    Attributes:
      hidden: width of the importance gate's hidden layer.
      temperature: what the entropies, up to log D, are divided by.
      dtype: of the computation.
    """

    hidden: int = 64
    temperature: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, D] and the weight of each modality."""
        del train
        states = jnp.stack([e.pooled for e in encoded.values()], axis=1)
        present = jnp.stack([e.present for e in encoded.values()], axis=1)
        scores = nn.Dense(1, dtype=self.dtype, name="score")(states)[..., 0]
        alpha = masked_softmax(scores * jnp.exp(-entropy(states) / self.temperature), present)
        by_entropy = jnp.einsum("bm,bmd->bd", alpha.astype(self.dtype), states)

        beta = self._importance(states, present)
        gated = (beta.astype(self.dtype)[..., None] * states).reshape(states.shape[0], -1)
        by_importance = nn.Dense(states.shape[-1], dtype=self.dtype, name="join")(gated)

        mix = jax.nn.sigmoid(self.param("mix", nn.initializers.zeros, ()))
        share = beta / jnp.maximum(beta.sum(axis=1, keepdims=True), 1e-9)
        weights = mix * alpha + (1 - mix) * share
        return Fused(
            features=(mix * by_entropy + (1 - mix) * by_importance).astype(self.dtype),
            weights={m: weights[:, i] for i, m in enumerate(encoded)},
        )

    def _importance(self, states: jax.Array, present: jax.Array) -> jax.Array:
        """Gates [B, M] float32 in (0, 1); 0 where absent."""
        x = states.reshape(states.shape[0], -1)
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="expand")(x))
        gates = nn.Dense(present.shape[1], dtype=self.dtype, name="contract")(x)
        return jnp.where(present, jax.nn.sigmoid(gates.astype(jnp.float32)), 0.0)


def entropy(states: jax.Array) -> jax.Array:
    """Float32 entropy [...], in nats, of the shares of |`states`| [..., D]; log D of zeros."""
    sizes = jnp.abs(states.astype(jnp.float32)) + 1e-6  # log 0 has no gradient
    shares = sizes / sizes.sum(axis=-1, keepdims=True)
    return -(shares * jnp.log(shares)).sum(axis=-1)
