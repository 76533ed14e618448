"""What the predictions of a system's seeds amount to: a vote, metrics, confusion, calibration."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from msa_jax import metrics, summary
from msa_jax.models.late import combine_classes, combine_scores
from msa_jax.predictions import PredictionTable
from msa_jax.tasks import CLASS_NAMES, Task, three_class


def shares(scores: np.ndarray, neutral: str) -> dict[str, float]:
    """The share of each of the paper's classes."""
    labels = three_class(scores, neutral)
    return {name: float(np.mean(labels == k)) for k, name in enumerate(CLASS_NAMES["three_class"])}


def vote(
    task: Task, voters: Sequence[Sequence[PredictionTable]], present: np.ndarray
) -> list[PredictionTable]:
    """A0: seed by seed, the majority of the trained systems of one modality.

    As in the paper each voter is trained, and here selected, alone; an utterance's absent
    modalities do not vote. `present` is [M, N].
    """
    asked = present | ~present.any(axis=0)
    combine = combine_scores if task.is_regression else combine_classes
    result = []
    for seed in zip(*voters, strict=True):
        outputs = np.stack([table.outputs for table in seed])
        logits = outputs if task.is_regression else np.log(np.maximum(outputs, 1e-30))
        combined = np.asarray(combine(jnp.asarray(logits), jnp.asarray(asked), "majority"))
        outputs = combined if task.is_regression else np.exp(combined)
        result.append(dataclasses.replace(seed[0], outputs=outputs, weights={}))
    return result


def of_system(task: Task, seeds: Sequence[PredictionTable], *, in_full: bool) -> dict[str, Any]:
    """A system's metrics on a split and, `in_full`, what the figures show."""
    result: dict[str, Any] = {"n": len(seeds[0].scores), "metrics": summary.spread(task, seeds)}
    if not in_full:
        return result
    if seeds[0].weights:
        result["weights"] = _weights(task, seeds)
    if task.is_regression:
        return result
    truth = [task.labels(seed.scores) for seed in seeds]
    confusion = sum(
        metrics.confusion(labels, seed.outputs.argmax(axis=-1), task.num_outputs)
        for labels, seed in zip(truth, seeds, strict=True)
    )
    pooled = metrics.calibration(np.concatenate(truth), np.concatenate([s.outputs for s in seeds]))
    errors = [
        metrics.calibration(labels, seed.outputs).expected_error
        for labels, seed in zip(truth, seeds, strict=True)
    ]
    result |= {
        "confusion": np.asarray(confusion).tolist(),
        "calibration": {
            "expected_error": float(np.mean(errors)),
            "confidence": pooled.confidence.tolist(),
            "accuracy": pooled.accuracy.tolist(),
            "count": pooled.count.tolist(),
        },
    }
    if task.kind == "three_class":
        result["other_bins"] = summary.spread(other_bins(task), seeds)
    return result


def other_bins(task: Task) -> Task:
    """The task with the other closure of the neutral class."""
    return dataclasses.replace(
        task, neutral="right_closed" if task.neutral == "closed" else "closed"
    )


def _weights(task: Task, seeds: Sequence[PredictionTable]) -> dict[str, Any]:
    """`{modality: {group: {mean, std}}}`: over all utterances and by true class, over seeds."""
    labels = task.labels(seeds[0].scores)
    names = CLASS_NAMES["three_class"] if task.is_regression else task.class_names
    groups = {"all": np.ones(len(labels), bool)}
    groups |= {name: labels == k for k, name in enumerate(names)}
    return {
        m: {
            group: {
                "mean": float(np.mean(values)),
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
            }
            for group, rows in groups.items()
            if rows.any()
            for values in [[float(seed.weights[m][rows].mean()) for seed in seeds]]
        }
        for m in seeds[0].weights
    }


def baselines(
    task: Task, train_scores: np.ndarray, splits: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """`{split: {baseline: metrics}}`; of three classes `other_bins` too."""

    def of(task: Task) -> dict[str, Any]:
        fitted = metrics.fit_baselines(task, train_scores)
        return {split: metrics.of_baselines(task, fitted, s) for split, s in splits.items()}

    result: dict[str, Any] = {"bins": of(task)}
    if task.kind == "three_class":
        result["other_bins"] = of(other_bins(task))
    return result
