"""What batches are drawn from: single utterances, or videos with all of their utterances."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Units:
    """The units of a split; every utterance is in exactly one.

    Attributes:
      rows: [U, W] int64, the utterances of each unit in order, -1 after its last.
      lengths: `{modality: [U]}` frames of a unit's longest utterance.
    """

    rows: np.ndarray
    lengths: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sizes(self) -> np.ndarray:
        """[U] utterances of each unit."""
        return (self.rows >= 0).sum(axis=1)


def of_utterances(lengths: Mapping[str, np.ndarray]) -> Units:
    """Every utterance by itself; `lengths` {modality: [N]} are theirs."""
    count = len(next(iter(lengths.values())))
    return Units(np.arange(count)[:, None], dict(lengths))


def of_videos(
    lengths: Mapping[str, np.ndarray], video_ids: Sequence[str], segments: np.ndarray
) -> Units:
    """Videos in the order in which they first occur, their utterances by `segments` [N].

    Utterances of equal segment, such as 0 where it is unknown, keep the order of the data.
    """
    _, first, video = np.unique(np.asarray(video_ids), return_index=True, return_inverse=True)
    video = np.argsort(np.argsort(first))[video]
    ordered = np.lexsort((segments, video))
    sizes = np.bincount(video)
    place = np.arange(len(ordered)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows = np.full((len(sizes), sizes.max(initial=1)), -1, np.int64)
    rows[video[ordered], place] = ordered
    longest = {m: np.zeros(len(sizes), each.dtype) for m, each in lengths.items()}
    for m, each in lengths.items():
        np.maximum.at(longest[m], video, each)
    return Units(rows, longest)
