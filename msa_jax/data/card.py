"""A dataset's card: what a person should know before training on it, as JSON and Markdown."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from msa_jax.data import builders, store
from msa_jax.tasks import CLASS_NAMES, three_class


def build(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """The card of a prepared dataset.

    Returns:
      JSON values: `fingerprint`, `source` (format, file, checksum, notes), `splits` (utterances
      found, dropped by reason and kept, videos, class shares in [0, 1] under both closures, and for
      each modality frames, lengths, absent utterances, and by column the least, greatest and mean
      value and the values that were repaired), `videos_in_two_splits`, and `dropped`, the list.
    """
    known = builders.metadata(builder)
    report = known.get("report", {})
    modalities = builders.modalities(builder)
    loaded = {
        name: store.load(builder, name, modalities, max_length=np.iinfo(np.int64).max)
        for name in store.available_splits(builder)
    }
    splits = {}
    for name, split in loaded.items():
        reasons = Counter(d["reason"] for d in report.get("dropped", []) if d["split"] == name)
        splits[name] = {
            "found": report.get("found", {}).get(name, len(split)),
            "dropped": dict(reasons),
            "kept": len(split),
            "videos": len(set(split.video_ids)),
            "class_shares": {closure: _shares(split, closure) for closure in _CLOSURES},
            "modalities": {m: _modality(split, m) for m in modalities},
        }
    return {
        "fingerprint": builders.fingerprint(builder),
        "source": {
            "format": known.get("format", ""),
            "file": known.get("file", ""),
            "checksum": known.get("checksum", ""),
            "notes": report.get("notes", []),
        },
        "splits": splits,
        "videos_in_two_splits": store.videos_in_two_splits(loaded),
        "dropped": report.get("dropped", []),
    }


_CLOSURES = {"closed": "[-1, 1]", "right_closed": "(-1, 1]"}


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a page."""
    source, splits = card["source"], card["splits"]
    lines = [
        f"# {card['fingerprint']}",
        "",
        f"From `{source['file']}` ({source['format']}), checksum `{source['checksum']}`.",
    ]
    remarks = [f"- {note}" for note in source["notes"]]
    if warning := store.videos_warning(card["videos_in_two_splits"]):
        remarks.append(f"- **Warning:** {warning}")
    if remarks:
        lines += ["", *remarks]
    lines += ["", "## Utterances", ""]
    rows = [["split", "found", "dropped", "kept", "videos"]]
    for name, split in splits.items():
        reasons = "; ".join(f"{count} {reason}" for reason, count in split["dropped"].items())
        rows.append([name, split["found"], reasons or "none", split["kept"], split["videos"]])
    lines += [*_table(rows), "", "## Classes, in % of the utterances kept", ""]
    rows = [["split", "neutral is", *CLASS_NAMES["three_class"]]]
    for name, split in splits.items():
        for closure, words in _CLOSURES.items():
            shares = [f"{100 * share:.1f}" for share in split["class_shares"][closure].values()]
            rows.append([name, words, *shares])
    lines += [*_table(rows), "", "## Frames", ""]
    rows = [["split", "modality", "channels", "frames", "median", "longest", "absent", "repaired"]]
    for name, split in splits.items():
        for modality, entry in split["modalities"].items():
            length = entry["lengths"]
            counts = [entry["channels"], entry["frames"], length["median"], length["longest"]]
            rows.append([name, modality, *counts, entry["absent"], sum(entry["not_finite"])])
    lines += _table(rows)
    lines += [
        "",
        "Median and longest are frames an utterance, absent are utterances without the modality,",
        "repaired are values not finite or beyond 1e20, now 0. Ranges by column: card.json.",
    ]
    return "\n".join(lines) + "\n"


def _modality(split: store.Split, modality: str) -> dict[str, Any]:
    lengths = split.sequences[modality].lengths
    low = np.full(split.channels[modality], np.inf)
    high, total = -low, np.zeros(split.channels[modality])
    for frames in split.parts(modality):
        if len(frames):
            low, high = np.minimum(low, frames.min(axis=0)), np.maximum(high, frames.max(axis=0))
            total += frames.sum(axis=0, dtype=np.float64)
    count = int(lengths.sum())
    columns = {"least": low, "greatest": high, "mean": total / max(count, 1)}
    return {
        "channels": split.channels[modality],
        "frames": count,
        "absent": int((lengths == 0).sum()),
        "lengths": {
            "shortest": int(lengths.min(initial=0)),
            "median": float(np.median(lengths)) if len(lengths) else 0.0,
            "mean": round(float(lengths.mean()), 2) if len(lengths) else 0.0,
            "longest": int(lengths.max(initial=0)),
        },
        "not_finite": split.sequences[modality].repaired.tolist(),
        "columns": {
            name: [round(float(v), 6) if np.isfinite(v) else None for v in values]
            for name, values in columns.items()
        },
    }


def _shares(split: store.Split, closure: str) -> dict[str, float]:
    names = CLASS_NAMES["three_class"]
    counts = np.bincount(three_class(split.scores, closure), minlength=len(names))
    shares = (counts / max(len(split), 1)).round(6).tolist()
    return dict(zip(names, shares, strict=True))


def _table(rows: list[list[Any]]) -> list[str]:
    shown = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [shown[0], "|" + " --- |" * len(rows[0]), *shown[1:]]
