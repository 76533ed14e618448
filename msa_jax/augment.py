"""Batches with less in them: missing modalities, missing frames, noise.

For training (config.augment), drawn anew at each step; `msa_jax.conditions` takes things away to
measure robustness. Labels stay as they are.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from msa_jax.config import Augment
from msa_jax.data.schema import mask_key

_MASK = mask_key("")


def corrupt(
    batch: Mapping[str, jax.Array], rng: jax.Array, config: Augment
) -> Mapping[str, jax.Array]:
    """`batch` with modalities and frames masked at random and noise added to the rest.

    An example keeps at least one of the modalities that it has, and a modality that it keeps at
    least one frame: where all would go, the one that drew the highest stays. What is masked is
    treated as padding.

    Args:
      batch: see `msa_jax.data.pipeline`.
      rng: a key; the same key takes the same things away.
      config: the rates; where all are 0 the batch is returned as it is.
    """
    modalities = sorted(name.removesuffix(_MASK) for name in batch if name.endswith(_MASK))
    modalities = [m for m in modalities if m in batch]  # example_mask is no modality's
    masks = {m: batch[mask_key(m)] for m in modalities}
    keys = jax.random.split(rng, 3)
    if config.modality_dropout:
        present = jnp.stack([mask.any(axis=1) for mask in masks.values()])
        luck = jnp.where(present, jax.random.uniform(keys[0], present.shape), -1.0)
        kept = (luck >= config.modality_dropout) | (luck == luck.max(axis=0))
        masks = {m: mask & kept[row][:, None] for row, (m, mask) in enumerate(masks.items())}
    if config.frame_dropout:
        for m, key in zip(modalities, jax.random.split(keys[1], len(modalities)), strict=True):
            luck = jnp.where(masks[m], jax.random.uniform(key, masks[m].shape), -1.0)
            masks[m] &= (luck >= config.frame_dropout) | (luck == luck.max(axis=1, keepdims=True))
    frames = {m: batch[m] for m in modalities}
    if config.noise:
        for m, key in zip(modalities, jax.random.split(keys[2], len(modalities)), strict=True):
            frames[m] = frames[m] + config.noise * jax.random.normal(key, frames[m].shape)
    return {**batch, **frames, **{mask_key(m): mask for m, mask in masks.items()}}
