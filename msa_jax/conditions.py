"""What a model may have to do without: the field's conditions, as numbers that one program takes.

Fixed subsets of modalities (MMIN); frames missing at random (TFR-Net, LNLN); modalities missing at
random, one always left (GCNet, IMDer); noise (MultiBench). We differ on purpose: what is missing is
masked, as an absent modality is, and not replaced by zeros or [UNK].

Shape legend: B batch, T time, C channels, M modalities.
"""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from msa_jax.data.schema import mask_key

Batch = Mapping[str, jax.Array]

LANGUAGE = "text"  # its frames are also taken away alone, and the others' alone
FRAME_RATES = tuple(rate / 10 for rate in range(10))
MODALITY_RATES = FRAME_RATES[:8]
NOISE_LEVELS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """What happens to every utterance of a split; the default is nothing.

    Attributes:
      absent: modalities that are masked out.
      modality_rate: probability that each of the others is missing; an utterance keeps at least one
        of those that it has.
      frame_rate: probability that a frame is missing. Other than in training (`config.augment`) all
        frames may go, and with them the modality; a single vector counts as one frame.
      frames_of: the modalities that lose frames.
      noise: standard deviation of what is added to every normalised feature.
    """

    absent: tuple[str, ...] = ()
    modality_rate: float = 0.0
    frame_rate: float = 0.0
    frames_of: tuple[str, ...] = ()
    noise: float = 0.0

    @property
    def random(self) -> bool:
        """Whether it depends on a mask seed."""
        return bool(self.modality_rate or self.frame_rate or self.noise)


COMPLETE = Condition()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A condition that grows worse.

    Attributes:
      title: what is missing, for people.
      axis: what the levels are, for people.
      conditions: `{level: condition}`, rising from 0.
      is_rate: levels are probabilities, so that an area under the curve means something.
    """

    title: str
    axis: str
    conditions: Mapping[float, Condition]
    is_rate: bool = True


def curves(modalities: Sequence[str]) -> dict[str, Curve]:
    """The curves for a model of `modalities`, by name; a curve that could not fall is left out."""
    others = tuple(m for m in modalities if m != LANGUAGE)
    panels = {
        "frames_text": ("text frames missing", tuple(m for m in modalities if m == LANGUAGE)),
        "frames_others": (f"{' and '.join(others)} frames missing", others),
        "frames_all": ("frames missing", tuple(modalities)),
    }
    found = {
        name: Curve(
            title=title,
            axis="share of frames missing",
            conditions={0.0: COMPLETE}
            | {rate: Condition(frame_rate=rate, frames_of=of) for rate in FRAME_RATES[1:]},
        )
        for name, (title, of) in panels.items()
        if of
    }
    if len(modalities) > 1:
        found["modalities"] = Curve(
            title="modalities missing",
            axis="probability that a modality is missing",
            conditions={0.0: COMPLETE}
            | {rate: Condition(modality_rate=rate) for rate in MODALITY_RATES[1:]},
        )
    found["noise"] = Curve(
        title="noise",
        axis="standard deviation of the noise",
        conditions={0.0: COMPLETE} | {sd: Condition(noise=sd) for sd in NOISE_LEVELS[1:]},
        is_rate=False,
    )
    return found


def subsets(modalities: Sequence[str]) -> dict[tuple[str, ...], Condition]:
    """`{modalities present: condition}` of every non-empty subset, the smallest first."""
    return {
        kept: Condition(absent=tuple(m for m in modalities if m not in kept))
        for size in range(1, len(modalities) + 1)
        for kept in itertools.combinations(modalities, size)
    }


@flax.struct.dataclass
class Pattern:
    """A condition and a mask seed as numbers, so that one program computes them all.

    Attributes:
      kept: [M] bool, false where the modality is absent.
      modality_rate: [].
      frame_rates: [M] the rate at which each modality loses frames.
      noise: [] standard deviation.
      draw: [] int32, which of the mask seeds.
    """

    kept: Any
    modality_rate: Any
    frame_rates: Any
    noise: Any
    draw: Any


def pattern(condition: Condition, modalities: Sequence[str], draw: int = 0) -> Pattern:
    """The pattern of a condition and of the mask seed number `draw`."""
    rates = [condition.frame_rate if m in condition.frames_of else 0.0 for m in modalities]
    return Pattern(
        kept=np.array([m not in condition.absent for m in modalities]),
        modality_rate=np.float32(condition.modality_rate),
        frame_rates=np.array(rates, np.float32),
        noise=np.float32(condition.noise),
        draw=np.int32(draw),
    )


@flax.struct.dataclass
class Luck:
    """Random numbers of a batch. Rising rates meet the same numbers: what is missing is nested.

    Attributes:
      modalities: `{modality: [B]}` uniform in [0, 1).
      frames: `{modality: [B, T]}` uniform in [0, 1).
      noise: `{modality: [B, T, C]}` standard normal.
    """

    modalities: dict[str, jax.Array]
    frames: dict[str, jax.Array]
    noise: dict[str, jax.Array]


def draw(seed: Any, rows: jax.Array, shapes: Mapping[str, tuple[int, ...]]) -> Luck:
    """Numbers that depend on (seed, row of the split, name of the modality, frame) alone.

    So every model and run meets the same masks, whatever its batch size, padding, devices or other
    modalities.

    Args:
      seed: [] a mask seed.
      rows: [B] int32 in the split; -1 for fillers.
      shapes: `{modality: [B, T, C]}` of the batch.
    """
    key = jax.random.key(seed, impl="threefry2x32")  # whatever JAX's default may become
    luck = Luck(modalities={}, frames={}, noise={})
    for m, (_, length, channels) in shapes.items():

        def of_row(
            row: jax.Array, own: jax.Array, length: int, channels: int
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            whole, frames, noise = jax.random.split(jax.random.fold_in(own, row), 3)

            def of_frame(frame: jax.Array) -> tuple[jax.Array, jax.Array]:
                normal = jax.random.normal(jax.random.fold_in(noise, frame), (channels,))
                return jax.random.uniform(jax.random.fold_in(frames, frame)), normal

            return jax.random.uniform(whole), *jax.vmap(of_frame)(jnp.arange(length))

        own = jax.random.fold_in(key, zlib.crc32(m.encode()))
        draw_rows = jax.vmap(functools.partial(of_row, own=own, length=length, channels=channels))
        luck.modalities[m], luck.frames[m], luck.noise[m] = draw_rows(rows)
    return luck


def corrupt(batch: Batch, luck: Luck, pattern: Pattern, modalities: Sequence[str]) -> Batch:
    """`batch` with what `pattern` takes away masked, and its noise added."""
    masks = [batch[mask_key(m)] & pattern.kept[i] for i, m in enumerate(modalities)]
    present = jnp.stack([mask.any(axis=1) for mask in masks])
    drawn = jnp.stack([luck.modalities[m] for m in modalities])
    drawn = jnp.where(present, drawn, -1.0)
    stays = (drawn >= pattern.modality_rate) | (drawn == drawn.max(axis=0))
    changed = {}
    for i, (m, mask) in enumerate(zip(modalities, masks, strict=True)):
        kept = stays[i][:, None] & (luck.frames[m] >= pattern.frame_rates[i])
        changed[mask_key(m)] = mask & kept
        changed[m] = batch[m] + pattern.noise * luck.noise[m]
    return {**batch, **changed}
