"""A whole prepared dataset, ready to train on, and what must travel with a checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from msa_jax.config import Data
from msa_jax.data import builders, normalization, store
from msa_jax.data.schema import FeatureSchema
from msa_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """The splits of a dataset, normalised.

    Attributes:
      splits: train, valid and, where the data have one, test.
      normalization: fitted on the train split.
      schema: what a model trained on these data reads.
      summary: counts, lengths and repairs, for results.json.
    """

    splits: Mapping[str, store.Split]
    normalization: normalization.Normalization
    schema: FeatureSchema
    summary: Mapping[str, Any]


def load(data: Data) -> Dataset:
    """Prepares the data on first use, reads all splits and normalises them by the train split.

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
    raw = {
        split: store.load(builder, split, data.modalities, data.max_length) for split in available
    }
    fitted = normalization.Normalization({}, {})
    if data.normalize:
        fitted = normalization.fit(raw["train"])
    splits = {name: fitted.apply(split) for name, split in raw.items()}
    schema = FeatureSchema(
        fingerprint=builders.fingerprint(builder),
        channels={m: s.frames.shape[1] for m, s in splits["train"].sequences.items()},
        lengths={m: max(s.longest[m] for s in splits.values()) for m in data.modalities},
    )
    summary = {
        "fingerprint": schema.fingerprint,
        "path": data.path,
        "channels": dict(schema.channels),
        "lengths": dict(schema.lengths),
        "constant_columns": {m: int((s == 0).sum()) for m, s in fitted.scale.items()},
        "splits": {name: split.summary() for name, split in splits.items()},
    }
    return Dataset(splits=splits, normalization=fitted, schema=schema, summary=summary)
