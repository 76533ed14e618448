"""A whole prepared dataset, ready to train on, and what must travel with a checkpoint."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from msa_jax.config import Data
from msa_jax.data import buckets, builders, normalization, store
from msa_jax.data.schema import FeatureSchema
from msa_jax.errors import UserError

_ROWS = 2048  # utterances that statistics are taken over at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """The splits of a dataset, normalised.

    Attributes:
      splits: train, valid and, where the data have one, test.
      normalization: fitted on the train split.
      buckets: of lengths, of all splits.
      schema: what a model trained on these data reads.
      summary: counts, lengths and repairs, for results.json.
    """

    splits: Mapping[str, store.Split]
    normalization: normalization.Normalization
    buckets: buckets.Buckets
    schema: FeatureSchema
    summary: Mapping[str, Any]


def load(data: Data) -> Dataset:
    """Prepares the data on first use, opens all splits and normalises them by the train split.

    Raises:
      UserError: if the data cannot be read, break the schema, or have nothing to train on.
    """
    builder = builders.prepare(data)
    available = store.available_splits(builder)
    for needed in ("train", "valid"):
        if needed not in available:
            raise UserError(
                f"{builders.fingerprint(builder)} has no utterance in split {needed!r}, only in "
                f"{', '.join(available)}: training needs train and valid. "
                "Choose the column with --config.data.split_column."
            )
    splits = {
        split: store.load(builder, split, data.modalities, data.max_length) for split in available
    }
    shared = store.videos_in_two_splits(splits)
    if shared:
        logging.warning("%s", store.videos_warning(shared))
    fitted = normalization.NONE
    if data.normalize:
        fitted = _fit_normalization(splits["train"])
        splits = {
            name: dataclasses.replace(split, normalization=fitted) for name, split in splits.items()
        }
    lengths = {m: max(split.longest[m] for split in splits.values()) for m in data.modalities}
    schema = FeatureSchema(
        fingerprint=builders.fingerprint(builder),
        channels=splits["train"].channels,
        lengths=lengths,
    )
    grouped = fit_buckets(list(splits.values()), data.buckets)
    known = builders.metadata(builder)
    summary = {
        "fingerprint": schema.fingerprint,
        "path": data.path,
        "format": known.get("format", ""),
        "notes": known.get("report", {}).get("notes", []),
        "dropped": len(known.get("report", {}).get("dropped", [])),
        "videos_in_two_splits": {pair: len(videos) for pair, videos in shared.items()},
        "channels": dict(schema.channels),
        "lengths": dict(schema.lengths),
        "buckets": [dict(each) for each in grouped.lengths],
        "constant_columns": {m: int((s == 0).sum()) for m, s in fitted.scale.items()},
        "splits": {name: split.summary() for name, split in splits.items()},
    }
    return Dataset(
        splits=splits, normalization=fitted, buckets=grouped, schema=schema, summary=summary
    )


def fit_buckets(splits: Sequence[store.Split], count: int) -> buckets.Buckets:
    """Buckets for the lengths of `splits`; see `buckets.fit`."""
    modalities = splits[0].sequences
    return buckets.fit(
        {m: np.concatenate([split.sequences[m].lengths for split in splits]) for m in modalities},
        count,
    )


def assign(split: store.Split, grouped: buckets.Buckets) -> np.ndarray:
    """The bucket [N] of each utterance of `split`."""
    return grouped.assign({m: s.lengths for m, s in split.sequences.items()})


def _fit_normalization(train: store.Split) -> normalization.Normalization:
    def parts(modality: str) -> Iterator[np.ndarray]:
        for start in range(0, len(train), _ROWS):
            yield train.frames(modality, np.arange(start, min(start + _ROWS, len(train))))

    fitted = {m: normalization.fit(parts(m), train.channels[m]) for m in train.sequences}
    return normalization.Normalization(
        mean={m: mean for m, (mean, _) in fitted.items()},
        scale={m: scale for m, (_, scale) in fitted.items()},
    )
