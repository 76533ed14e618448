"""How fast a folder of CMU-MultimodalSDK `.csd` files is read and aligned, and what it takes."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from msa_jax.benchmarks.memory import peak_memory_gb
from msa_jax.data.sources.csd import CsdFolder
from msa_jax.errors import UserError

# CMU-MOSEI's own.
VIDEOS = 3229
MEAN_SECONDS = 72.5

VOCABULARY = ("the", "movie", "was", "really", "good", "bad", "plot", "and", "it", "sp")


def measure(
    fraction: float = 0.1, *, directory: str | None = None, seed: int = 0
) -> dict[str, Any]:
    """Writes a part of a dataset of CMU-MOSEI's shape and reads it in a process of its own.

    Reading is all that is timed: every file's checks and every split's utterances, aligned to
    words. The files have just been written, so that the disk's own speed hardly counts.

    Args:
      fraction: of CMU-MOSEI's 3,229 videos, more than 0; ten videos at least.
      directory: where a temporary folder may be made: about 6 GB for the whole.
      seed: of the data.

    Returns:
      JSON values: `videos`, `segments` (utterances read), `words` (steps of them), `gigabytes` on
      disk, `seconds`, `seconds_at_full_size` (in proportion to the videos),
      `utterances_per_second` and `peak_memory_gb` of the process that does nothing but read.

    Raises:
      UserError: if the fraction is not more than 0.
    """
    if not fraction > 0:
        raise UserError(f"fraction is {fraction}: expected more than 0, such as 0.1.")
    videos = max(10, round(fraction * VIDEOS))
    with tempfile.TemporaryDirectory(dir=directory) as place:
        folder = write_mosei_like(Path(place).resolve(), videos, seed)
        size = sum(path.stat().st_size for path in folder.iterdir())
        child = subprocess.run(
            [sys.executable, "-m", __name__, str(folder)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            check=True,
        )
    found = json.loads(child.stdout)
    return {
        "videos": videos,
        "segments": found["segments"],
        "words": found["words"],
        "gigabytes": size / 1e9,
        "seconds": found["seconds"],
        "seconds_at_full_size": found["seconds"] * VIDEOS / videos,
        "utterances_per_second": found["segments"] / found["seconds"],
        "peak_memory_gb": found["peak_memory_gb"],
    }


def read(folder: str) -> dict[str, Any]:
    """Reads all splits of a folder; `measure` has a process do nothing else."""
    segments = words = 0
    start = time.perf_counter()
    source = CsdFolder(folder)
    for split in source.splits:
        for utterance in source.utterances(split):
            segments += 1
            words += len(utterance.frames["text"])
    return {
        "segments": segments,
        "words": words,
        "seconds": time.perf_counter() - start,
        "peak_memory_gb": peak_memory_gb(),
    }


def write_mosei_like(
    folder: Path,
    videos: int,
    seed: int = 0,
    *,
    names: Sequence[str] | None = None,
    mean_seconds: float = MEAN_SECONDS,
) -> Path:
    """Writes a folder shaped like CMU-MOSEI's, one file at a time, and returns it.

    A video has 72.5 s, 7.2 segments and 140 words on average; words 'S32' with pauses between
    them, GloVe [n, 300], COVAREP [n, 74] at 100 Hz with -inf in places, FACET 4.2 [n, 35] at 30 Hz,
    All Labels [n, 7] in steps of 1/3 with a few of 10/3, segments that overlap by up to a second
    and are not in order. Every dataset is one chunk, packed by gzip, as the SDK writes it; packed
    less tightly, which is faster to write and costs the same to read.

    Args:
      folder: made if missing.
      videos: how many.
      seed: decides everything.
      names: the videos' ids; "video0000" and so on by default, with a `folds.json` that splits them
        7 : 1 : 2.
      mean_seconds: length of a video on average.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    if names is None:
        names = [f"video{i:04d}" for i in range(videos)]
        first, second = videos * 7 // 10, videos * 8 // 10
        splits = {"train": names[:first], "valid": names[first:second], "test": names[second:]}
        (folder / "folds.json").write_text(json.dumps(splits), encoding="utf-8")
    lengths = np.clip(rng.gamma(2.2, mean_seconds / 2.2, videos), 8, 900)
    seconds = dict(zip(names, lengths.tolist(), strict=True))
    spoken = {name: _speech(length, rng) for name, length in seconds.items()}
    said = np.array(VOCABULARY, "S32")

    _write(
        folder / "CMU_MOSEI_Labels.csd",
        "All Labels",
        ((name, *_labels(length, rng)) for name, length in seconds.items()),
    )
    _write(
        folder / "CMU_MOSEI_TimestampedWords.csd",
        "words",
        ((name, said[words][:, None], intervals) for name, (words, intervals) in spoken.items()),
    )
    _write(
        folder / "CMU_MOSEI_TimestampedWordVectors.csd",
        "glove_vectors",
        (
            (name, rng.standard_normal((len(words), 300), np.float32), intervals)
            for name, (words, intervals) in spoken.items()
        ),
    )
    for file, root, rate, channels in (
        ("CMU_MOSEI_COVAREP.csd", "COVAREP", 100, 74),
        ("CMU_MOSEI_VisualFacet42.csd", "FACET 4.2", 30, 35),
    ):
        _write(
            folder / file,
            root,
            ((name, *_frames(length, rate, channels, rng)) for name, length in seconds.items()),
        )
    return folder


def _write(path: Path, root: str, entries: Iterator[tuple[str, np.ndarray, np.ndarray]]) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_group(f"{root}/data")
        file.create_group(f"{root}/metadata")
        for name, features, intervals in entries:
            for key, values in (("features", features), ("intervals", intervals)):
                data.create_dataset(
                    f"{name}/{key}",
                    data=values,
                    chunks=values.shape,
                    compression="gzip",
                    compression_opts=1,
                )


def _speech(seconds: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Words [n] as rows of the vocabulary, every fifth a pause, and intervals without gaps."""
    edges = np.cumsum(rng.uniform(0.08, 0.75, max(2, int(seconds / 0.41))))
    edges = np.concatenate([[0], edges * seconds / edges[-1]])
    pause = rng.random(len(edges) - 1) < 0.2
    words = np.where(pause, len(VOCABULARY) - 1, rng.integers(0, len(VOCABULARY) - 1, len(pause)))
    return words, _between(edges)


def _labels(seconds: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n, 7] and the intervals of segments padded by half a second, in any order."""
    count = max(1, round(seconds / 10))
    edges = np.sort([0, *rng.uniform(0, seconds, count - 1), seconds])
    intervals = _between(edges) + np.array([-0.5, 0.5], np.float32)
    labels = np.round(rng.uniform(-3, 3, (count, 7)) * 3) / 3
    labels[rng.random((count, 7)) < 0.005] = 10 / 3
    return labels.astype(np.float32), intervals[rng.permutation(count)]


def _frames(
    seconds: float, rate: float, channels: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Frames [n, C] with a few -inf in COVAREP's columns 7 and 8, and their intervals."""
    intervals = _between(np.arange(int(seconds * rate) + 1) / rate)
    features = rng.standard_normal((len(intervals), channels), np.float32).round(3)
    if channels == 74:
        features[rng.random(len(features)) < 0.01, 7:9] = -np.inf
    return features, intervals


def _between(edges: np.ndarray) -> np.ndarray:
    """Intervals [n, 2] float32 that follow one another."""
    return np.stack([edges[:-1], edges[1:]], axis=1).astype(np.float32)


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1])))
