"""A whole prepared dataset, ready to train on, and what must travel with a checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import logging

from msa_jax.config import Data
from msa_jax.data import buckets, builders, normalization, store
from msa_jax.data.schema import FeatureSchema
from msa_jax.data.units import Units
from msa_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """The splits of a dataset, normalised.

    Attributes:
      splits: train, valid and, where the data have one, test.
      normalization: fitted on the train split.
      units: of each split, what its batches are drawn from.
      buckets: of each split; fitted on train, the longest made to hold the others.
      schema: what a model trained on these data reads.
      summary: counts, lengths and repairs, for results.json.
    """

    splits: Mapping[str, store.Split]
    normalization: normalization.Normalization
    units: Mapping[str, Units]
    buckets: Mapping[str, buckets.Buckets]
    schema: FeatureSchema
    summary: Mapping[str, Any]


def load(data: Data, *, of_videos: bool = False) -> Dataset:
    """Prepares the data on first use, opens all splits and normalises them by the train split.

    Args:
      data: which.
      of_videos: batches hold whole videos, their utterances in order.

    Raises:
      UserError: if the data cannot be read, break the schema, or have nothing to train on.
    """
    builder = builders.prepare(data)
    available = store.available_splits(builder)
    for needed in ("train", "valid"):
        if needed not in available:
            raise UserError(
                f"{builders.fingerprint(builder)} has no utterance in split {needed!r}, only in "
                f"{', '.join(available)}: training needs train and valid. Prepare it with another "
                "split_column."
            )
    splits = {
        split: store.load(builder, split, data.modalities, data.max_length) for split in available
    }
    shared = store.videos_in_two_splits(splits)
    if shared:
        logging.warning("%s", store.videos_warning(shared))
    for modality, counts in splits["train"].lengths.items():
        if not counts.any():
            logging.warning("%s is absent in all of train: a model learns nothing of it.", modality)
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
    units = {name: split.units(of_videos=of_videos) for name, split in splits.items()}
    if of_videos and units["train"].sizes.max() == 1:
        raise UserError(
            f"{builders.fingerprint(builder)}: no video has two utterances, so none has a context: "
            "config.model.context needs the column video_id (and segment, their order)."
        )
    fitted_buckets = buckets.fit(units["train"], data.buckets, of_videos=of_videos)
    # The longest is the same in all splits: what `evaluate` pads to when it knows the schema alone.
    fitted_buckets = fitted_buckets.reaching(lengths)
    grouped = {name: fitted_buckets.holding(each) for name, each in units.items()}
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
        "buckets": [dict(each) for each in fitted_buckets.lengths],
        **({"utterances_a_video": list(fitted_buckets.utterances)} if of_videos else {}),
        "constant_columns": {m: int((s == 0).sum()) for m, s in fitted.scale.items()},
        "splits": {name: split.summary() for name, split in splits.items()},
    }
    return Dataset(
        splits=splits,
        normalization=fitted,
        units=units,
        buckets=grouped,
        schema=schema,
        summary=summary,
    )


def _fit_normalization(train: store.Split) -> normalization.Normalization:
    fitted = {m: normalization.fit(train.parts(m), train.channels[m]) for m in train.sequences}
    return normalization.Normalization(
        mean={m: mean for m, (mean, _) in fitted.items()},
        scale={m: scale for m, (_, scale) in fitted.items()},
    )
