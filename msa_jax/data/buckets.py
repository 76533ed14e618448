"""Groups of utterances of like length, so that little padding is computed.

A bucket holds the utterances that fit its lengths, by modality, and no smaller bucket's; its
batches are padded to them. So there are as many shapes as buckets, whatever the modalities.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from msa_jax.data.units import Units

_LEVELS = 64  # sizes are rounded up to this many levels to find the bounds


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The shapes of batches.

    Attributes:
      lengths: K times `{modality: T}` that a batch of the bucket is padded to, rising.
      utterances: K times those that a unit is filled up to, rising; 1 for single utterances.
      of_videos: whether units are videos.
    """

    lengths: tuple[Mapping[str, int], ...]
    utterances: tuple[int, ...]
    of_videos: bool = False

    def assign(self, units: Units) -> np.ndarray:
        """The bucket [U] of each unit; the last must hold them all."""
        found = [np.searchsorted(self.utterances, units.sizes)]
        for m, each in units.lengths.items():
            found.append(np.searchsorted([lengths[m] for lengths in self.lengths], each))
        return np.max(found, axis=0)

    def reaching(self, lengths: Mapping[str, int]) -> "Buckets":
        """These buckets, the last padded to `lengths` {modality: T} at least."""
        last = {m: max(length, lengths[m]) for m, length in self.lengths[-1].items()}
        return dataclasses.replace(self, lengths=(*self.lengths[:-1], last))

    def holding(self, units: Units) -> "Buckets":
        """These buckets, the last made large enough for `units`."""
        last = {
            m: max(length, int(units.lengths[m].max(initial=0)))
            for m, length in self.lengths[-1].items()
        }
        most = max(self.utterances[-1], int(units.sizes.max(initial=1)))
        return dataclasses.replace(
            self,
            lengths=(*self.lengths[:-1], last),
            utterances=(*self.utterances[:-1], most),
        )


def fit(units: Units, count: int, *, of_videos: bool = False) -> Buckets:
    """At most `count` buckets with few padded frames for `units`: of videos, few fillers.

    Videos are grouped by how many utterances they have, and each group padded to its longest.
    """
    if not of_videos:
        lengths = _fit(units.lengths, count)
        return Buckets(lengths, (1,) * len(lengths))
    bounds = [each["utterances"] for each in _fit({"utterances": units.sizes}, count)]
    within = [units.sizes <= bound for bound in bounds]
    return Buckets(
        tuple(
            {m: max(1, int(each[held].max(initial=0))) for m, each in units.lengths.items()}
            for held in within
        ),
        tuple(bounds),
        of_videos=True,
    )


def _fit(lengths: Mapping[str, np.ndarray], count: int) -> tuple[Mapping[str, int], ...]:
    """The lengths of at most `count` buckets with few padded frames for `lengths` {modality: [N]}.

    Sizes are frames over all modalities, as a share of what the longest of each would have. Bounds
    on the size are chosen that leave the fewest frames when a bucket is padded, by modality, to the
    longest utterance within its bounds.
    """
    longest = {m: max(1, int(each.max(initial=0))) for m, each in lengths.items()}
    frames = sum(longest.values())
    levels = np.ceil(sum(lengths.values()) / frames * _LEVELS).astype(np.int64)
    number = np.bincount(levels, minlength=_LEVELS + 1)
    reach = np.zeros((len(lengths), _LEVELS + 1), np.int64)  # the longest up to a level
    for row, each in enumerate(lengths.values()):
        np.maximum.at(reach[row], levels, each)
    reach = np.maximum(np.maximum.accumulate(reach, axis=1), 1)
    padded = reach.sum(axis=0)  # frames of an utterance in a bucket that ends there
    below = np.cumsum(number)
    # best[k][j]: fewest frames of k buckets that hold all levels up to j.
    best = np.full((count + 1, _LEVELS + 1), np.inf)
    before = np.zeros((count + 1, _LEVELS + 1), np.int64)
    best[1] = below * padded
    for k in range(2, count + 1):
        cost = best[k - 1][:, None] + (below[None, :] - below[:, None]) * padded[None, :]
        cost[np.tril_indices(_LEVELS + 1)] = np.inf
        before[k], best[k] = cost.argmin(axis=0), cost.min(axis=0)
    used = int(best[1:, -1].argmin()) + 1  # of equals the fewest
    ends = [_LEVELS]
    for k in range(used, 1, -1):
        ends.insert(0, int(before[k][ends[0]]))
    return tuple({m: int(reach[row, end]) for row, m in enumerate(lengths)} for end in ends)
