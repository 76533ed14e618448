"""The field's metrics, as pure functions of whole splits in float64.

F1 and correlation are not means over batches, so nothing here accumulates. Definitions follow
MMSA's `metricsTop.py`; a metric that the data leave undefined is NaN.

Legend: N examples, K classes. All rates are fractions in [0, 1].
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from msa_jax.tasks import Task

Metrics = dict[str, float]
LOWER_IS_BETTER = ("loss", "mae")


def classification(labels: np.ndarray, predictions: np.ndarray) -> Metrics:
    """Accuracy, macro and weighted F1 and balanced accuracy of predicted classes.

    Classes are those that occur in `labels` or `predictions`, as in scikit-learn; balanced accuracy
    is the mean recall of those that occur in `labels`.

    Args:
      labels: [N] true classes, integers from 0.
      predictions: [N] predicted classes.
    """
    labels, predictions = np.asarray(labels, int), np.asarray(predictions, int)
    if not len(labels):
        return dict.fromkeys(
            ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy"), float("nan")
        )
    size = int(max(labels.max(), predictions.max())) + 1
    confusion = np.bincount(labels * size + predictions, minlength=size * size)
    confusion = confusion.reshape(size, size).astype(np.float64)
    hits, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    seen = (true + predicted) > 0
    f1 = 2 * hits[seen] / (true + predicted)[seen]
    return {
        "accuracy": float(hits.sum() / len(labels)),
        "macro_f1": float(f1.mean()),
        "weighted_f1": float((f1 * true[seen]).sum() / len(labels)),
        "balanced_accuracy": float((hits[true > 0] / true[true > 0]).mean()),
    }


def regression(scores: np.ndarray, predictions: np.ndarray) -> Metrics:
    """MMSA's metrics of predicted scores.

    - `mae`, `corr` (Pearson): of predictions as they are, not clipped.
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
    y, p = y - y.mean(), p - p.mean()
    spread = np.sqrt((y**2).sum() * (p**2).sum())
    # A constant leaves only rounding noise behind; its correlation is undefined, not random.
    if spread <= 1e-12 * len(y) or np.ptp(p) <= 1e-9:
        return float("nan")
    return float((y * p).sum() / spread)


def of_outputs(task: Task, scores: np.ndarray, outputs: np.ndarray) -> Metrics:
    """The metrics of a task.

    Args:
      task: gives the true classes.
      scores: [N] true scores.
      outputs: [N, K] class probabilities; for regression [N, 1] predicted scores.
    """
    if task.is_regression:
        return regression(scores, outputs[:, 0])
    return classification(task.labels(scores), outputs.argmax(axis=-1))


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


def bootstrap(
    statistic: Callable[[np.ndarray], Metrics],
    groups: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of metrics over examples, resampled by group.

    Utterances of a video are not independent, so whole videos are drawn.

    Args:
      statistic: metrics of the examples with the given indices [any number].
      groups: [N] the group (video) of each example.
      resamples: draws.
      level: of the interval.
      seed: of the draws.

    Returns:
      `{metric: (low, high)}`; NaN where a metric is undefined in every draw.
    """
    _, group = np.unique(groups, return_inverse=True)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group))[:-1])
    rng = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {}
    for _ in range(resamples):
        chosen = rng.integers(len(members), size=len(members))
        for name, value in statistic(np.concatenate([members[c] for c in chosen])).items():
            draws.setdefault(name, []).append(value)
    tails = [(1 - level) / 2, (1 + level) / 2]
    intervals = {}
    for name, values in draws.items():
        defined = np.asarray(values)[~np.isnan(values)]
        low, high = np.quantile(defined, tails) if len(defined) else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals
