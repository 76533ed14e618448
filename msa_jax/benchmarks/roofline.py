"""How long a step takes at least on a TPU: arithmetic, memory and interconnect at their peaks."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from msa_jax.benchmarks.hlo import Collective

# Of a message to a neighbour, however short. This, and how long collectives take, follows "How to
# Scale Your Model" (jax-ml.github.io/scaling-book), chapter "Sharded matrices".
_HOP_SECONDS = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """What a chip can do at most.

    Attributes:
      flops: a second, of products of bfloat16 that are summed in float32. XLA rounds the factors of
        a float32 product to bfloat16 by default, so that it runs at the same rate.
      hbm_gib: memory.
      hbm_bytes: read from or written to it a second.
      link_bytes: a second, one way, over one link to a neighbour; two links a dimension.
      ring: lengths of a dimension that closes to a ring are multiples of it.
      slices: their shapes, the smallest first.
    """

    flops: float
    hbm_gib: float
    hbm_bytes: float
    link_bytes: float
    ring: int
    slices: tuple[str, ...]


_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
# Google's tables at docs.cloud.google.com/tpu/docs/ (v5e, v5p, v6e): "peak compute per chip
# (bf16)", "HBM capacity", "HBM bandwidth", and "bidirectional ICI bandwidth per chip", which counts
# all links (four in a square, six in a cube) in both directions.
CHIPS = {
    "v5e": Chip(
        flops=197e12, hbm_gib=16, hbm_bytes=819e9, link_bytes=400e9 / 8, ring=16, slices=_SQUARES
    ),
    "v6e": Chip(
        flops=918e12, hbm_gib=32, hbm_bytes=1638e9, link_bytes=800e9 / 8, ring=16, slices=_SQUARES
    ),
    "v5p": Chip(
        flops=459e12, hbm_gib=95, hbm_bytes=2765e9, link_bytes=1200e9 / 12, ring=4, slices=_CUBES
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a step, each part at its peak.

    Attributes:
      arithmetic: if there were nothing but products of matrices at full rate.
      memory: of the traffic with the chip's memory.
      interconnect: of all collectives, one after the other.
    """

    arithmetic: float
    memory: float
    interconnect: float

    @property
    def limit(self) -> str:
        """The part that takes longest."""
        parts = dataclasses.asdict(self)
        return max(parts, key=lambda name: parts[name])

    @property
    def hidden(self) -> float:
        """If collectives run while the chips compute."""
        return max(self.arithmetic, self.memory, self.interconnect)

    @property
    def exposed(self) -> float:
        """If the chips wait for every collective."""
        return max(self.arithmetic, self.memory) + self.interconnect


def step_time(
    chip: Chip,
    *,
    flops: float,
    hbm_bytes: float,
    collectives: Sequence[Collective],
    places: np.ndarray,
) -> StepTime:
    """A lower bound on the time of a step.

    Args:
      chip: its peaks.
      flops: of one chip in a step.
      hbm_bytes: that one chip reads and writes in a step.
      collectives: of a step.
      places: [N, 3] where the mesh's devices stand in the slice.
    """
    return StepTime(
        arithmetic=flops / chip.flops,
        memory=hbm_bytes / chip.hbm_bytes,
        interconnect=sum(each.times * seconds(each, chip, places) for each in collectives),
    )


def seconds(collective: Collective, chip: Chip, places: np.ndarray) -> float:
    """Of one collective: bytes over the links of the dimensions that it spans, or its hops.

    A dimension that closes to a ring is used in both directions, any other in one.
    """
    group = places[list(collective.group)]
    bandwidth = hops = 0.0
    for dimension in range(places.shape[1]):
        length = len(np.unique(group[:, dimension]))
        if length > 1:
            whole = len(np.unique(places[:, dimension]))
            ring = length == whole and length % chip.ring == 0
            bandwidth += chip.link_bytes * (2 if ring else 1)
            hops += length / 2 if ring else length - 1
    if not bandwidth:
        return 0.0
    share = (len(group) - 1) / len(group) if collective.kind != "collective-permute" else 1.0
    passes = 2 if collective.kind == "all-reduce" else 1
    return passes * max(collective.size * share / bandwidth, hops * _HOP_SECONDS)
