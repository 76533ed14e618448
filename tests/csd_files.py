"""Writes `.csd` files as the CMU-MultimodalSDK does, for tests and for measuring speed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Entries = Mapping[str, tuple[Any, Any]]

VOCABULARY = ("the", "movie", "was", "really", "good", "bad", "plot", "and", "it", "sp")


def write_csd(path: Path, root: str, entries: Entries, **options: Any) -> Path:
    """Writes `{video: (features, intervals)}`; options go to the datasets, such as compression."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root)
        data = group.create_group("data")
        for video, (features, intervals) in entries.items():
            entry = data.create_group(video)
            for name, values in (("features", features), ("intervals", intervals)):
                entry.create_dataset(name, data=values, **options)
        metadata = group.create_group("metadata")
        for key, value in (("root name", root), ("computational sequence version", "1.0")):
            text = metadata.create_dataset(key, (1,), dtype=h5py.string_dtype())
            text[0] = json.dumps(value)
    return path


def frames(seconds: float, rate: float) -> np.ndarray:
    """Intervals [n, 2] that follow each other at a rate."""
    edges = np.arange(int(seconds * rate) + 1) / rate
    return np.stack([edges[:-1], edges[1:]], axis=1).astype(np.float32)


def speech(seconds: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Words [n, 1] as bytes, every fifth a pause on average, and their intervals, without gaps."""
    edges = np.cumsum(rng.uniform(0.08, 0.6, max(2, int(seconds / 0.34))))
    edges = np.concatenate([[0], edges * seconds / edges[-1]])
    pause = rng.random(len(edges) - 1) < 0.2
    chosen = np.where(pause, len(VOCABULARY) - 1, rng.integers(0, 9, len(pause)))
    words = np.array(VOCABULARY, "S32")[chosen][:, None]
    return words, np.stack([edges[:-1], edges[1:]], axis=1).astype(np.float32)


def write_mosei_like(
    folder: Path,
    videos: int,
    seed: int = 0,
    *,
    names: Sequence[str] | None = None,
    mean_seconds: float = 72.5,
    **options: Any,
) -> Path:
    """Writes a folder shaped like CMU-MOSEI's, one file at a time, and returns it.

    CMU-MOSEI's own numbers: 3,229 videos of 72.5 s on average, 7.2 segments and 140 words each;
    words 'S32', GloVe [n, 300], COVAREP [n, 74] at 100 Hz with -inf in places, FACET 4.2 [n, 35] at
    30 Hz, All Labels [n, 7] in steps of 1/3 with a few of 10/3, segments that overlap by up to a
    second and are not in order.

    Args:
      folder: made if missing.
      videos: how many.
      seed: decides everything.
      names: the videos' ids; "video0000" and so on by default, with a `folds.json` that splits them
        7 : 1 : 2.
      mean_seconds: length of a video on average.
      options: for h5py's create_dataset; by default compression="gzip", as the real files have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = options or {"compression": "gzip", "compression_opts": 1}
    rng = np.random.default_rng(seed)
    if names is None:
        names = [f"video{i:04d}" for i in range(videos)]
        first, second = videos * 7 // 10, videos * 8 // 10
        splits = {"train": names[:first], "valid": names[first:second], "test": names[second:]}
        (folder / "folds.json").write_text(json.dumps(splits))
    names = list(names)[:videos]
    lengths = np.clip(rng.gamma(2.2, mean_seconds / 2.2, videos), 8, 900)
    spoken = {name: speech(length, rng) for name, length in zip(names, lengths, strict=True)}

    def labels(seconds: float) -> tuple[np.ndarray, np.ndarray]:
        count = max(1, round(seconds / 10))
        edges = np.sort(rng.uniform(0, seconds, count + 1))
        intervals = np.stack([edges[:-1] - 0.5, edges[1:] + 0.5], axis=1)
        order = rng.permutation(count)
        features = np.round(rng.uniform(-3, 3, (count, 7)) * 3) / 3
        features[rng.random((count, 7)) < 0.005] = 10 / 3
        return features.astype(np.float32), intervals[order].astype(np.float32)

    def dense(seconds: float, rate: float, channels: int) -> tuple[np.ndarray, np.ndarray]:
        intervals = frames(seconds, rate)
        features = rng.standard_normal((len(intervals), channels), np.float32).round(3)
        if channels == 74:
            features[rng.random(len(features)) < 0.01, 7:9] = -np.inf
        return features, intervals

    def glove(name: str) -> tuple[np.ndarray, np.ndarray]:
        words, intervals = spoken[name]
        table = np.random.default_rng(seed).standard_normal((len(VOCABULARY), 300))
        rows = np.searchsorted(np.sort(VOCABULARY), words[:, 0].astype(str))
        return table[rows].astype(np.float32), intervals

    def write(file: str, root: str, entries: Iterator[tuple[str, tuple[Any, Any]]]) -> None:
        with h5py.File(folder / file, "w") as out:
            data = out.create_group(f"{root}/data")
            out.create_group(f"{root}/metadata")
            for name, (features, intervals) in entries:
                entry = data.create_group(name)
                entry.create_dataset("features", data=features, **options)
                entry.create_dataset("intervals", data=intervals, **options)

    both = list(zip(names, lengths, strict=True))
    write("CMU_MOSEI_Labels.csd", "All Labels", ((n, labels(s)) for n, s in both))
    write("CMU_MOSEI_TimestampedWords.csd", "words", ((n, spoken[n]) for n in names))
    write("CMU_MOSEI_TimestampedWordVectors.csd", "glove_vectors", ((n, glove(n)) for n in names))
    write("CMU_MOSEI_COVAREP.csd", "COVAREP", ((n, dense(s, 100, 74)) for n, s in both))
    write("CMU_MOSEI_VisualFacet42.csd", "FACET 4.2", ((n, dense(s, 30, 35)) for n, s in both))
    return folder


def mutations(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Damaged copies of a file: flipped bytes, a cut end, blocks of zeros, moved blocks."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        damaged = bytearray(content)
        if number % 4 == 0:
            for place in rng.integers(0, len(damaged), rng.integers(1, 9)):
                damaged[place] = rng.integers(0, 256)
        elif number % 4 == 1:
            del damaged[rng.integers(0, len(damaged)) :]
        else:
            size = int(rng.integers(1, 513))
            start, source = rng.integers(0, len(damaged) - size, 2)
            block = bytes(size) if number % 4 == 2 else damaged[source : source + size]
            damaged[start : start + size] = block
        yield bytes(damaged)
