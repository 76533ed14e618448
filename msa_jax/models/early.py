"""A1, early fusion (arXiv 2501.08085): the encoders' final hidden states, joined."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from msa_jax.models.contract import Encoded, Fused


class EarlyFusion(nn.Module):
    """z = [h_text; h_audio; h_vision], zeros for an absent modality."""

    any_widths: ClassVar[bool] = True
    dtype: jnp.dtype = jnp.float32

    def __call__(self, encoded: Mapping[str, Encoded], train: bool) -> Fused:
        """Features [B, M * D]."""
        del train
        return Fused(features=jnp.concatenate([e.pooled for e in encoded.values()], axis=-1))
