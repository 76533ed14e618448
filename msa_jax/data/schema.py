"""What an utterance is, and what a batch is made of.

Shape legend, used everywhere: B batch, T time, D width, H heads, C feature channels, K classes,
M modalities, N utterances of a split, V videos, U utterances of a video.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

SPLITS = ("train", "valid", "test")
SCORE_RANGE = (-3.0, 3.0)
# Names that no modality can have, since they already mean something in an example or a batch.
COLUMNS = ("id", "video_id", "segment", "start", "end", "transcript", "score")
RESERVED = (*COLUMNS, "split", "label", "example", "utterance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance:
    """One labelled utterance.

    Attributes:
      id: unique in its dataset.
      frames: `{modality: [T, C] float32}`, unpadded; T may be 0 (the modality is absent) and
        differs between modalities unless they are aligned.
      score: sentiment in [-3, 3].
      video_id: the video it was cut from; its own id where unknown.
      segment: its order within the video, from 1; 0 where unknown.
      start, end: seconds in the video; NaN where unknown.
      transcript: the words; empty where unknown.
    """

    id: str
    frames: Mapping[str, np.ndarray]
    score: float
    video_id: str
    segment: int = 0
    start: float = float("nan")
    end: float = float("nan")
    transcript: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSchema:
    """What a model was trained to read; it travels with the checkpoint.

    Attributes:
      fingerprint: names the prepared dataset and changes with its content.
      channels: `{modality: C}`, in the order in which modalities are joined.
      lengths: `{modality: T}`, the frames of the longest utterance.
    """

    fingerprint: str
    channels: Mapping[str, int]
    lengths: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Plain containers; modalities as a list of pairs, since JSON objects have no order."""
        return {
            "fingerprint": self.fingerprint,
            "modalities": [[m, self.channels[m], self.lengths[m]] for m in self.channels],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FeatureSchema":
        """The inverse of `to_json`."""
        return cls(
            fingerprint=value["fingerprint"],
            channels={m: channels for m, channels, _ in value["modalities"]},
            lengths={m: length for m, _, length in value["modalities"]},
        )


def mask_key(modality: str) -> str:
    """The batch key of a modality's mask `[B, T]`: true where a frame is real."""
    return f"{modality}_mask"
