"""Groups of utterances of like length, so that little padding is computed.

The size of an utterance is its frames, over all modalities, as a share of what the longest of each
would have. A bucket holds the sizes between two bounds; its batches are padded, by modality, to the
longest utterance in it. So there are as many shapes as buckets, whatever the modalities.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

_LEVELS = 64  # sizes are rounded up to this many levels to find the bounds


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Bounds of the buckets and the shapes of their batches.

    Attributes:
      frames: of an utterance of size 1.
      bounds: [K] greatest size of each bucket, rising; the last is 1.
      lengths: K times `{modality: T}` that a batch of the bucket is padded to.
    """

    frames: int
    bounds: np.ndarray
    lengths: tuple[Mapping[str, int], ...]

    def assign(self, lengths: Mapping[str, np.ndarray]) -> np.ndarray:
        """The bucket [N] of utterances with `lengths` {modality: [N]}, of those `fit` has seen."""
        sizes = sum(lengths.values()) / self.frames
        return np.searchsorted(self.bounds, sizes)


def fit(lengths: Mapping[str, np.ndarray], count: int) -> Buckets:
    """At most `count` buckets with the fewest padded frames for `lengths` {modality: [N]}."""
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
    return Buckets(
        frames=frames,
        bounds=np.array(ends) / _LEVELS,
        lengths=tuple({m: int(reach[row, end]) for row, m in enumerate(lengths)} for end in ends),
    )
