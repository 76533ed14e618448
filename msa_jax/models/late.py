"""A0, late fusion (arXiv 2501.08085): unimodal classifiers, each trained alone, then a vote."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from msa_jax.models.contract import Batch, Output
from msa_jax.models.encoders import encode


class LateFusion(nn.Module):
    """Independent ModalityTransformers side by side; modalities an example lacks do not vote.

    In training no classifier feels another: losses add up, no gradient passes through the vote, and
    gradients are clipped by modality. They do share the selected checkpoint.

    Attributes:
      encoders, classifiers: one of each, by modality.
      frozen: the encoders keep their weights.
      contexts: over the utterances of a video, by modality; none judge each utterance alone.
      vote: majority, as in the paper, or soft: the mean of the classifiers' probabilities. Of
        regressed scores, majority takes the median and soft the mean.
    """

    any_widths: ClassVar[bool] = True
    encoders: Mapping[str, nn.Module]
    classifiers: Mapping[str, nn.Module]
    frozen: bool = False
    contexts: Mapping[str, nn.Module] | None = None
    vote: Literal["majority", "soft"] = "majority"

    def __call__(self, batch: Batch, train: bool) -> Output:
        """Votes; no gradient passes through the vote, each classifier learns from its own loss."""
        encoded = encode(self.encoders, batch, train=train, frozen=self.frozen)
        features = {m: e.pooled for m, e in encoded.items()}
        if self.contexts:
            mask = batch["utterance_mask"]
            features = {m: self.contexts[m](x, mask, train) for m, x in features.items()}
        unimodal = {m: self.classifiers[m](x, train) for m, x in features.items()}
        present = {m: e.present for m, e in encoded.items()}
        return Output(
            logits=decide(unimodal, present, self.vote),
            unimodal=unimodal,
            present=present,
            pooled={m: e.pooled for m, e in encoded.items()},
            voted=True,
        )


def decide(
    votes: Mapping[str, jax.Array], present: Mapping[str, jax.Array], vote: str
) -> jax.Array:
    """What the classifiers of `votes` {name: [B, K]} decide together, [B, K]; no gradient passes.

    Those vote that are `present` {name: [B]}; where nobody is, all do.
    """
    logits = jax.lax.stop_gradient(jnp.stack(list(votes.values())))
    voters = jnp.stack(list(present.values()))
    voters = voters | ~voters.any(axis=0)
    combine = combine_scores if logits.shape[-1] == 1 else combine_classes
    return combine(logits, voters, vote)


def combine_classes(logits: jax.Array, voters: jax.Array, vote: str) -> jax.Array:
    """Log-probabilities [B, K] of a vote over `logits` [M, B, K] among `voters` [M, B].

    A majority is counted as votes plus mean probability, so that a tie (of three voters: three
    different votes) goes to the tied class of the highest mean probability, and divided by the
    voters plus one, so that the result is a distribution.
    """
    weights = voters[..., None].astype(jnp.float32)
    count = weights.sum(axis=0)
    probabilities = jax.nn.softmax(logits, axis=-1)
    mean = (weights * probabilities).sum(axis=0) / count
    if vote == "soft":
        return jnp.log(mean)
    votes = weights * jax.nn.one_hot(logits.argmax(axis=-1), logits.shape[-1])
    return jnp.log((votes.sum(axis=0) + mean) / (count + 1))


def combine_scores(scores: jax.Array, voters: jax.Array, vote: str) -> jax.Array:
    """The median (majority) or mean (soft) [B, 1] of `scores` [M, B, 1] among `voters` [M, B]."""
    kept = jnp.where(voters[..., None], scores, jnp.nan)
    return jnp.nanmedian(kept, axis=0) if vote == "majority" else jnp.nanmean(kept, axis=0)
