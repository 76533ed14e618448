"""The base paper's figures: training and validation loss and accuracy by step."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from msa_jax.tasks import Task


def png(history: Sequence[Mapping[str, Any]], task: Task) -> bytes:
    """A picture of `metrics.jsonl`; where the metric is the loss, it is shown once.

    Args:
      history: an entry an evaluation, with `step`, `train_loss`, `valid_loss` and the train and
        valid value of the task's plain metric: accuracy, or mae for regression.
      task: names that metric.
    """
    from matplotlib.figure import Figure  # slow to import, and needed once a run

    name = "mae" if task.is_regression else "accuracy"
    same = all(
        math.isclose(entry[f"{split}_loss"], entry[f"{split}_{name}"], rel_tol=1e-5)
        for entry in history
        for split in ("train", "valid")
    )
    shown = [name] if same else ["loss", name]
    figure = Figure(figsize=(4.5 * len(shown), 3.4), layout="constrained")
    steps = [entry["step"] for entry in history]
    for axes, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for split, style in (("train", "--"), ("valid", "-")):
            values = [entry[f"{split}_{metric}"] for entry in history]
            axes.plot(steps, values, style, marker=".", label=split)
        axes.set_xlabel("step")
        axes.set_title("mean absolute error" if metric == "mae" else metric)
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
