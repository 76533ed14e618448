"""The field's metrics, as pure functions of whole splits in float64.

F1 and correlation are not means over batches, so nothing here accumulates. Definitions follow
MMSA's `metricsTop.py`; a metric that the data leave undefined is NaN.

Legend: N examples, K classes. All rates are fractions in [0, 1]. How sure they are:
`msa_jax.statistics`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from msa_jax.tasks import Task

Metrics = dict[str, float]
LOWER_IS_BETTER = ("loss", "mae")

# What spreads no further than this share of its size (of 1, where it is smaller) is constant: a
# float32 model's outputs for one utterance differ by as much with other padding.
_CONSTANT = 1e-5


def classification(labels: np.ndarray, predictions: np.ndarray) -> Metrics:
    """Accuracy, macro and weighted F1 and balanced accuracy of predicted classes.

    Classes are those that occur in `labels` or `predictions`, as in scikit-learn; balanced accuracy
    is the mean recall of those that occur in `labels`.

    Args:
      labels: [N] true classes, integers from 0.
      predictions: [N] predicted classes.
    """
    labels, predictions = np.asarray(labels, int), np.asarray(predictions, int)
    size = int(max(labels.max(), predictions.max())) + 1 if len(labels) else 1
    return _of_confusion(confusion(labels, predictions, size))


def _of_confusion(counts: np.ndarray) -> Metrics:
    # Plain numbers: over so few cells arrays take ten times as long, and a bootstrap asks often.
    true, predicted = counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    hits, total = counts.diagonal().tolist(), sum(true)
    if not total:
        return dict.fromkeys(
            ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy"), float("nan")
        )
    seen = [k for k in range(len(hits)) if true[k] + predicted[k]]
    f1 = [2 * hits[k] / (true[k] + predicted[k]) for k in seen]
    recall = [hits[k] / true[k] for k in seen if true[k]]
    return {
        "accuracy": sum(hits) / total,
        "macro_f1": sum(f1) / len(f1),
        "weighted_f1": sum(each * true[k] for each, k in zip(f1, seen, strict=True)) / total,
        "balanced_accuracy": sum(recall) / len(recall),
    }


def confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class is predicted as each: [K, K] integers, rows truth, columns predicted.

    Args:
      labels: [N] true classes in [0, K).
      predictions: [N] predicted classes in [0, K).
      num_classes: K.

    Raises:
      ValueError: if a class lies outside [0, K), or the lengths differ.
    """
    labels, predictions = np.asarray(labels, int), np.asarray(predictions, int)
    if labels.shape != predictions.shape:
        raise ValueError(f"{labels.shape} labels do not match {predictions.shape} predictions.")
    both = np.concatenate([labels, predictions])
    if len(both) and not (both.min() >= 0 and both.max() < num_classes):
        raise ValueError(f"Classes lie in [{both.min()}, {both.max()}], not [0, {num_classes}).")
    counts = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether predictions made with confidence c are right in a share c of cases.

    Attributes:
      expected_error: mean over examples of |accuracy - confidence| of their bin, in [0, 1].
      confidence: [bins] mean confidence; NaN where a bin is empty.
      accuracy: [bins] share of right predictions; NaN where a bin is empty.
      count: [bins] examples.
    """

    expected_error: float
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> Calibration:
    """Expected calibration error of the top class (Guo et al. 2017, arXiv 1706.04599, equation 5).

    Bins have equal width and are open below and closed above, as there: ((b - 1) / bins, b / bins].

    Args:
      labels: [N] true classes.
      probabilities: [N, K], rows that sum to 1.
      bins: into which the confidence, the largest probability, is sorted.

    Returns:
      The calibration; its error is NaN without examples.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.searchsorted(edges, confidence, side="left")
    count = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, weights=x, minlength=bins) for x in (confidence, right)]
    gap = np.abs(sums[1] - sums[0]).sum()
    means = [np.where(count > 0, total / np.maximum(count, 1), np.nan) for total in sums]
    return Calibration(
        expected_error=float(gap / len(labels)) if len(labels) else float("nan"),
        confidence=means[0],
        accuracy=means[1],
        count=count,
    )


def regression(scores: np.ndarray, predictions: np.ndarray) -> Metrics:
    """MMSA's metrics of predicted scores.

    - `mae`, `corr` (Pearson): of predictions as they are, not clipped. `corr` is NaN where scores
      or predictions are constant to within rounding (1e-5, or 1e-5 of their size).
    - `acc7`, `acc5`, `acc3`: both clipped to 3, 2, 1, rounded half to even, and equal.
    - `acc2_has0`, `f1_has0`: negative against non-negative, all examples.
    - `acc2_non0`, `f1_non0`: negative against positive, examples with a score of 0 left out.
    F1 is weighted, in the order (truth, prediction).

    Args:
      scores: [N] true scores in [-3, 3].
      predictions: [N] predicted scores, any finite number.
    """
    y, p = np.asarray(scores, np.float64), np.asarray(predictions, np.float64)
    has0 = classification(y >= 0, p >= 0)
    non0 = classification(y[y != 0] > 0, p[y != 0] > 0)

    def agreement(limit: int) -> float:
        rounded = np.rint(np.clip(y, -limit, limit)) == np.rint(np.clip(p, -limit, limit))
        return float(np.mean(rounded))

    return {
        "mae": float(np.mean(np.abs(p - y))),
        "corr": _pearson(y, p),
        "acc7": agreement(3),
        "acc5": agreement(2),
        "acc3": agreement(1),
        "acc2_has0": has0["accuracy"],
        "f1_has0": has0["weighted_f1"],
        "acc2_non0": non0["accuracy"],
        "f1_non0": non0["weighted_f1"],
    }


def _pearson(y: np.ndarray, p: np.ndarray) -> float:
    # A constant leaves only rounding noise behind; its correlation is undefined, not random.
    if not len(y) or any(np.ptp(x) <= _CONSTANT * max(1.0, np.abs(x).max()) for x in (y, p)):
        return float("nan")
    y, p = y - y.mean(), p - p.mean()
    spread = np.sqrt((y**2).sum() * (p**2).sum())
    return float((y * p).sum() / spread)


def of_outputs(task: Task, scores: np.ndarray, outputs: np.ndarray) -> Metrics:
    """The metrics of a task.

    Args:
      task: gives the true classes.
      scores: [N] true scores.
      outputs: [N, K] class probabilities; for regression [N, 1] predicted scores.
    """
    return by_rows(task, scores, outputs)(np.arange(len(scores)))


def by_rows(task: Task, scores: np.ndarray, outputs: np.ndarray) -> Callable[[np.ndarray], Metrics]:
    """The metrics of any rows of `scores` and `outputs`, for resampling: classes are found once."""
    if task.is_regression:
        return lambda rows: regression(scores[rows], outputs[rows, 0])
    classes = task.num_outputs
    labels, predictions = task.labels(scores), outputs.argmax(axis=-1)
    confusion(labels, predictions, classes)  # refuses what is none of them
    cells = labels * classes + predictions

    def of_rows(rows: np.ndarray) -> Metrics:
        counts = np.bincount(cells[rows], minlength=classes**2)
        return _of_confusion(counts.reshape(classes, classes))

    return of_rows


def is_better(name: str, value: float, best: float) -> bool:
    """Whether metric `name` improved; NaN is worse than anything."""
    if np.isnan(value) or np.isnan(best):
        return bool(np.isnan(best) and not np.isnan(value))
    return value < best if name in LOWER_IS_BETTER else value > best


def fit_baselines(task: Task, train_scores: np.ndarray) -> dict[str, Any]:
    """What predictors that look at no features learn from the train split.

    Returns:
      For classes `{"majority": class}`. For regression `{"median": score, "mean": score,
      "best_constant": {metric: the constant that is best at it on the train split}}`.
    """
    if not task.is_regression:
        return {"majority": int(np.bincount(task.labels(train_scores)).argmax())}
    median, mean = float(np.median(train_scores)), float(np.mean(train_scores))
    candidates = [median, mean, *np.arange(-3.0, 4.0).tolist()]
    best: dict[str, float] = {}
    values: dict[str, float] = {}
    for constant in candidates:
        for name, value in regression(train_scores, _constant(train_scores, constant)).items():
            if not np.isnan(value) and (name not in best or is_better(name, value, values[name])):
                best[name], values[name] = constant, value
    return {"median": median, "mean": mean, "best_constant": best}


def of_baselines(task: Task, fitted: Mapping[str, Any], scores: np.ndarray) -> dict[str, Metrics]:
    """The metrics on `scores` [N] of the predictors of `fit_baselines`, by name.

    `best_constant` takes for each metric its own constant: no constant reaches all of them.
    """
    if not task.is_regression:
        labels = task.labels(scores)
        return {"majority": classification(labels, np.full_like(labels, fitted["majority"]))}
    rows = {
        name: regression(scores, _constant(scores, fitted[name])) for name in ("median", "mean")
    }
    best = {
        name: regression(scores, _constant(scores, constant))[name]
        for name, constant in fitted["best_constant"].items()
    }
    return {**rows, "best_constant": {name: best.get(name, float("nan")) for name in rows["mean"]}}


def _constant(scores: np.ndarray, value: float) -> np.ndarray:
    return np.full(len(scores), value)


def per_example(task: Task, scores: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """What is averaged into the task's main metric: [N] hits, or absolute errors."""
    if task.is_regression:
        return np.abs(outputs[:, 0].astype(np.float64) - scores)
    return (outputs.argmax(axis=-1) == task.labels(scores)).astype(np.float64)
