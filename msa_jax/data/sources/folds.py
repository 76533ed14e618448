"""Which split a video belongs to: a folder's own `folds.json`, or the field's standard folds.

`standard_folds.json` holds the CMU-MultimodalSDK's video ids of CMU-MOSI and CMU-MOSEI
(mmsdk/mmdatasdk/dataset/standard_datasets), as `{dataset: {split: [video id]}}`.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from msa_jax.data.schema import SPLITS
from msa_jax.errors import UserError, nearest

STANDARD = Path(__file__).with_name("standard_folds.json")
OWN = "folds.json"
_EXAMPLE = '{"train": ["video id", ...], "valid": [...], "test": [...]}'


@dataclasses.dataclass(frozen=True)
class Folds:
    """Splits of videos.

    Attributes:
      name: where they come from, in words.
      split_of: `{video id: split}`.
    """

    name: str
    split_of: Mapping[str, str]


def load_folds(folder: Path, videos: Collection[str]) -> Folds:
    """The folds for a folder's videos; its own file comes before the standard ones.

    Args:
      folder: where a `folds.json` may lie: `{split: [video id]}`.
      videos: the ids to be split; the standard dataset that has most of them is chosen.

    Raises:
      UserError: if the folder's file is wrong, or it has none and no standard fold has any of the
        videos.
    """
    own = folder / OWN
    if own.exists():
        return Folds(f"the folder's {OWN}", _checked(own))
    standard = {
        name: _by_video(splits)
        for name, splits in json.loads(STANDARD.read_text(encoding="utf-8")).items()
    }
    known = {name: sum(v in split_of for v in videos) for name, split_of in standard.items()}
    best = max(known, key=lambda name: known[name])
    if not known[best]:
        raise UserError(
            f"{folder}: none of its {len(videos)} labelled videos, for example "
            f"{min(videos, default='')!r}, is in the standard folds of {' or '.join(standard)}. "
            f"Add a file {OWN} there: {_EXAMPLE}."
        )
    return Folds(f"the CMU-MultimodalSDK's standard folds of {best}", standard[best])


def _checked(path: Path) -> dict[str, str]:
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}). Expected {_EXAMPLE}.") from error
    if not isinstance(splits, dict) or not splits:
        raise UserError(f"{path} holds no splits. Expected {_EXAMPLE}.")
    for split, videos in splits.items():
        if split not in SPLITS:
            raise UserError(f"{path}: unknown split {split!r}. {nearest(split, SPLITS)}")
        if not _strings(videos):
            raise UserError(f"{path}: {split} must be a list of video ids. Expected {_EXAMPLE}.")
    split_of = _by_video(splits)
    for split, videos in splits.items():
        twice = sorted({video for video in videos if split_of[video] != split})
        if twice:
            raise UserError(
                f"{path}: {len(twice)} videos are in both {split} and {split_of[twice[0]]}, for "
                f"example {twice[0]!r}. Each video belongs to one split: remove it from the others."
            )
    return split_of


def _by_video(splits: Mapping[str, Any]) -> dict[str, str]:
    return {video: split for split, videos in splits.items() for video in videos}


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
