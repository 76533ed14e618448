"""Utterances of CMU-MOSEI's shape to measure speed on: real lengths, random frames."""

import csv
import gzip
from pathlib import Path

import numpy as np

from msa_jax.config import Config
from msa_jax.data import flat, synthetic
from msa_jax.data.schema import FeatureSchema
from msa_jax.data.store import Sequences, Split
from msa_jax.errors import UserError

CHANNELS = synthetic.CHANNELS


def lengths(labels: Path | None = None, seed: int = 0) -> np.ndarray:
    """Words of utterances in random order, at `synthetic.WORDS_PER_SECOND`.

    Args:
      labels: a CSV file, maybe compressed, with columns `start` and `end` in seconds; None draws
        them as `synthetic_mosei` does, whose distribution is CMU-MOSEI's.
      seed: of the order, and of what is drawn.

    Raises:
      UserError: if the file has no such columns or holds no numbers.
    """
    rng = np.random.default_rng(seed)
    if labels is None:
        return synthetic.sample_latents(16326, rng).lengths
    opened = gzip.open if labels.suffix == ".gz" else open
    try:
        with opened(labels, "rt", newline="") as file:
            seconds = [float(row["end"]) - float(row["start"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{labels}: {error!r}. Expected a CSV file with columns start and end in seconds."
        ) from error
    words = np.rint(np.array(seconds) * synthetic.WORDS_PER_SECOND).astype(np.int64)
    return rng.permutation(np.maximum(words, 1))


def split(words: np.ndarray, config: Config, folder: Path) -> tuple[Split, FeatureSchema]:
    """A split of `words` [N] frames an utterance in every modality of `config`, and its schema.

    Args:
      words: at most `config.data.max_length` each.
      config: says which modalities.
      folder: for files of random frames, written where they are missing; it must outlive the split.

    Raises:
      UserError: on a modality that CMU-MOSEI does not have.
    """
    rng = np.random.default_rng(0)
    sequences = {}
    for m in config.data.modalities:
        if m not in CHANNELS:
            raise UserError(f"config.data.modalities: {m!r} has no width here, only {CHANNELS}.")
        path = folder / f"{m}.f32"
        if not path.exists():
            frames = rng.standard_normal((int(words.sum()), CHANNELS[m]), np.float32)
            path.write_bytes(frames.tobytes())
        sequences[m] = Sequences(
            frames=flat.Frames(path, CHANNELS[m]),
            starts=np.cumsum(words) - words,
            lengths=words,
            repaired=np.zeros(CHANNELS[m], np.int64),
            cut=0,
        )
    names = [f"utterance{row}" for row in range(len(words))]
    made = Split(
        fingerprint="random",
        name="train",
        sequences=sequences,
        scores=rng.choice(synthetic.LEVELS, len(words)).astype(np.float32),
        ids=names,
        video_ids=[f"video{row // 7}" for row in range(len(words))],
        segments=np.arange(len(words)),
    )
    longest = dict.fromkeys(sequences, int(words.max()))
    return made, FeatureSchema(fingerprint="random", channels=made.channels, lengths=longest)
