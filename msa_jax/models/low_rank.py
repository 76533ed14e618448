"""LMF, low-rank multimodal fusion (Liu et al., ACL 2018): TFN's tensor, never written out."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from msa_jax.models.contract import Encoded, Fused


class LowRankFusion(nn.Module):
    """z = sum over r of w_r (W_1^r [1; h_1] * W_2^r [1; h_2] * ...) + bias.

    With h_m the pooled vectors, and * by element: a linear layer over TFN's tensor
    [1; h_1] x [1; h_2] x ..., whose weights have the given rank. What W_m^r makes of the 1 is a
    bias, so that a factor is a linear layer with one; an absent modality is [1; 0]. Equals the sum
    over the written-out tensor (tested).

    As in the paper, factors start Xavier-normal, those of the 1 as well, or products of two and of
    one modality would start at nothing. The paper predicts z itself; here a classifier follows, and
    factors have no learning rate of their own.

    Attributes:
      width: F, of z.
      rank: of the decomposition; a modality has rank * (D + 1) * F weights.
      dtype: of the computation.
    """

    any_widths: ClassVar[bool] = True
    width: int = 64
    rank: int = 4
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, F]."""
        del train
        product = jnp.ones((), self.dtype)
        for modality, e in encoded.items():
            init = nn.initializers.normal(np.sqrt(2 / (e.pooled.shape[-1] + 1 + self.width)))
            factor = nn.DenseGeneral(
                (self.rank, self.width),
                kernel_init=init,
                bias_init=init,
                dtype=self.dtype,
                name=f"factor_{modality}",
            )
            product = product * factor(e.pooled)
        sizes = nn.initializers.normal(np.sqrt(2 / (1 + self.rank)))
        weights = self.param("weights", sizes, (self.rank,)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        return Fused(features=jnp.einsum("r,brf->bf", weights, product) + bias)
