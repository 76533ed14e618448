"""Writes `.csd` files as the CMU-MultimodalSDK does, and damages them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Entries = Mapping[str, tuple[Any, Any]]


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
