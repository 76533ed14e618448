"""Writes `.csd` files as the CMU-MultimodalSDK does, and a small folder of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Entries = Mapping[str, tuple[Any, Any]]

FOLDS = {"train": ["zoe", "abe"], "valid": ["bea"], "test": ["cal"]}
# dan is in no fold, eve has no words, fay no labels; cal has no audio.
VIDEOS = ("zoe", "fay", "abe", "dan", "eve", "cal", "bea")
Scene = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]
ROOTS = {
    "words": "words",
    "text": "glove_vectors",
    "audio": "COVAREP",
    "vision": "FACET 4.2",
    "labels": "Opinion Segment Labels",
}


def write_csd(path: Path, root: str, entries: Entries, **options: Any) -> Path:
    """Writes `{video: (features, intervals)}`; options go to the datasets, such as compression.

    The file keeps the order of the videos.
    """
    with h5py.File(path, "w") as file:
        group = file.create_group(root)
        data = group.create_group("data", track_order=True)
        for video, (features, intervals) in entries.items():
            entry = data.create_group(video)
            for name, values in (("features", features), ("intervals", intervals)):
                entry.create_dataset(name, data=values, **options)
        metadata = group.create_group("metadata")
        for key, value in (("root name", root), ("computational sequence version", "1.0")):
            text = metadata.create_dataset(key, (1,), dtype=h5py.string_dtype())
            text[0] = json.dumps(value)
    return path


def scene(seed: int = 0) -> Scene:
    """`{role: {video: (features, intervals)}}`, float32 intervals, rows in any order."""
    rng = np.random.default_rng(seed)
    made: Scene = {role: {} for role in ("words", "text", "audio", "vision", "labels")}
    for video in VIDEOS:
        edges = np.cumsum(rng.uniform(0.1, 0.7, 41))
        spans = np.stack([edges[:-1], edges[1:] - rng.choice([0, 0.05], 40)], axis=1)
        spans[7, 1] = spans[7, 0]  # an instant
        said = np.array([f"word{i}é" for i in range(40)])
        said[rng.random(40) < 0.2] = "sp"
        order = rng.permutation(40)
        words = np.char.encode(said, "utf-8")[order, None]
        made["words"][video] = words, np.float32(spans[order])
        order = rng.permutation(40)[5:]
        made["text"][video] = rng.standard_normal((35, 6)), np.float32(spans[order])
        times = np.arange(200) / 10
        audio = rng.standard_normal((200, 74)).astype(np.float32)
        audio[rng.random(200) < 0.2, 7] = -np.inf
        audio[30:60, 3] = np.nan
        made["audio"][video] = audio, np.float32(np.stack([times, times + 0.1], axis=1))
        times = 2 + np.arange(30) / 3
        made["vision"][video] = (
            rng.standard_normal((30, 35)),
            np.float32(np.stack([times, times + 0.5], axis=1)),
        )
        ends = edges[[10, 11, 18, 40]]
        starts = np.concatenate([[0], ends[:-1]])
        segments = np.stack([starts - 0.5, ends + 0.5], axis=1)
        instant = [edges[25] + 0.04] * 2
        added = [[edges[2], edges[5]], [90, 91], edges[20:22], instant]
        segments = np.concatenate([segments, added])
        scores = np.array([10 / 3, -1, 2 / 3, -3, 0, 1, np.nan, 5 / 3])
        order = rng.permutation(8)
        made["labels"][video] = scores[order, None], np.float32(segments[order])
    for role, video in (("words", "eve"), ("labels", "fay"), ("audio", "cal")):
        del made[role][video]
    return made


def write_scene(folder: Path, made: Mapping[str, Any], **options: Any) -> Path:
    """Writes a scene, a file a role, and its folds."""
    folder.mkdir(exist_ok=True)
    for role, entries in made.items():
        write_csd(folder / f"{role}.csd", ROOTS[role], entries, **options)
    (folder / "folds.json").write_text(json.dumps(FOLDS))
    return folder
