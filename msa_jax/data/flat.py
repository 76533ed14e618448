"""A split of a prepared dataset as flat files: all frames of a modality one after another.

Reading an utterance from a flat file takes one positioned read and no decoding: many times as fast
as decoding its record, and the memory used does not depend on the size of the dataset. The files
are written once, beside the prepared dataset, where they are missing: at once or not at all. What
is not finite, or absurd, becomes 0 on the way, and is counted, before anything sees it.
"""

import errno
import functools
import hashlib
import json
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from msa_jax.data import whole
from msa_jax.data.builders import fingerprint, modalities
from msa_jax.errors import UserError

_VERSION = 2  # of the layout and what is repaired
LARGEST = 1e20  # so that no scaling overflows float32


class Frames:
    """The frames [F, C] float32 of one modality, on disk."""

    def __init__(self, path: Path, channels: int) -> None:
        """Opens the file; it stays open as long as this object lives."""
        self.channels = channels
        self._path = path
        self._width = 4 * channels
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._count = os.fstat(self._file).st_size // self._width

    def __len__(self) -> int:
        return self._count

    def read(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The frames `start:start + count` of each pair, one after another: [sum(counts), C]."""
        frames = np.empty((int(counts.sum()), self.channels), np.float32)
        self._fill(frames, starts, counts, np.cumsum(counts) - counts)
        return frames

    def read_padded(self, starts: np.ndarray, counts: np.ndarray, length: int) -> np.ndarray:
        """The frames of each of B pairs, with zeros after them: [B, length, C]."""
        frames = np.zeros((len(starts), length, self.channels), np.float32)
        self._fill(frames, starts, counts, np.arange(len(starts)) * length)
        return frames

    def _fill(
        self, frames: np.ndarray, starts: np.ndarray, counts: np.ndarray, places: np.ndarray
    ) -> None:
        """Reads straight into `frames`, each pair's from the place that it is given there."""
        memory, width = frames.reshape(-1).view(np.uint8).data, self._width
        wanted = zip(starts.tolist(), counts.tolist(), places.tolist(), strict=True)
        for start, count, place in wanted:
            part = memory[place * width : (place + count) * width]
            if count and os.preadv(self._file, [part], start * width) != len(part):
                raise OSError(f"{self._path} ends too early: remove its folder to write it anew")


def open_split(builder: tfds.core.DatasetBuilder, split: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a split's flat files and what they hold; writes them where they are missing.

    Returns:
      The folder, with `{modality}.f32` and `{modality}.lengths.npy`, and `scores.npy`; and a
      dictionary of `channels`, `repaired` (counts by modality and column) and the lists `id`,
      `video_id` and `segment`.
    """
    for home in _homes(builder):
        folder = home / split
        index = folder / "index.json"
        if not index.exists():
            try:
                whole.make(folder, functools.partial(_write, builder, split), index.exists)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                    continue  # a dataset that may only be read: the next home
                raise
        return folder, json.loads(index.read_text())
    raise UserError(
        f"{builder.data_dir} is read-only, and so is the temporary directory, where its frames "
        "would go. Set TMPDIR to a place with room for them."
    )


def _homes(builder: tfds.core.DatasetBuilder) -> Iterator[Path]:
    """Where flat files may live: beside the dataset, or, where it is in a bucket or read-only, in
    the temporary directory (TMPDIR).
    """
    beside = str(builder.data_dir)
    known = f"{beside} {fingerprint(builder)}".encode()
    name = f"flat-{_VERSION}-{hashlib.sha256(known).hexdigest()[:16]}"
    if "://" not in beside:
        yield Path(beside) / f"flat-{_VERSION}"
    yield whole.temporary_home() / name


def _write(builder: tfds.core.DatasetBuilder, split: str, folder: Path) -> Path:
    channels = {m: int(builder.info.features[m].shape[-1]) for m in modalities(builder)}
    index = _write_frames(builder, split, folder, channels)
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def _write_frames(
    builder: tfds.core.DatasetBuilder, split: str, folder: Path, channels: Mapping[str, int]
) -> dict[str, Any]:
    lengths: dict[str, list[int]] = {m: [] for m in channels}
    repaired = {m: np.zeros(count, np.int64) for m, count in channels.items()}
    columns: dict[str, list[Any]] = {"id": [], "video_id": [], "segment": []}
    scores: list[float] = []
    files = {m: (folder / f"{m}.f32").open("wb", buffering=1 << 22) for m in channels}
    try:
        source = builder.as_data_source(split)
        for example in tqdm(source, f"{split} to flat files", unit="utterance", disable=None):
            scores.append(example["score"])
            columns["segment"].append(int(example["segment"]))
            for name in ("id", "video_id"):
                columns[name].append(example[name].decode())
            for m, file in files.items():
                frames = np.ascontiguousarray(example[m], np.float32)
                broken = ~(np.abs(frames) <= LARGEST)
                if broken.any():
                    repaired[m] += broken.sum(axis=0)
                    frames = np.where(broken, np.float32(0), frames)
                lengths[m].append(len(frames))
                file.write(frames.tobytes())
    finally:
        for file in files.values():
            file.close()
    np.save(folder / "scores.npy", np.asarray(scores, np.float32))
    for m, counts in lengths.items():
        np.save(folder / f"{m}.lengths.npy", np.asarray(counts, np.int64))
    return {
        "channels": dict(channels),
        "repaired": {m: counts.tolist() for m, counts in repaired.items()},
        **columns,
    }
