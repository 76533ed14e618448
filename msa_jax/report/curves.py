"""Learning curves: the base paper's figures, training and validation loss and accuracy by step."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from msa_jax.report import canvas
from msa_jax.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# An entry an evaluation: `step`, and `train_<metric>` and `valid_<metric>` for each metric.
History: TypeAlias = Sequence[Mapping[str, Any]]

_SPLITS: dict[str, tuple[str, Any, str]] = {
    "train": ("training", "--", canvas.colour(1)),
    "valid": ("validation", "-", canvas.colour(0)),
}
_TITLES = {"mae": "mean absolute error", "macro_f1": "macro-F1", "corr": "correlation"}
_MANY_POINTS = 25  # markers would hide the line


@dataclasses.dataclass(frozen=True)
class Band:
    """What seeds have in common at each step [P]: their mean, their smallest and greatest value."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def over_seeds(histories: Sequence[History], key: str) -> Band:
    """A metric's mean and range over seeds, at the steps where at least half of them have it.

    A seed that stopped early, or whose value is NaN, None or missing, has none: there the mean is
    over the others.
    """
    values: dict[int, list[float]] = {}
    for history in histories:
        # A step evaluated twice counts once.
        own = {int(entry["step"]): canvas.number(entry.get(key)) for entry in history}
        for step, value in own.items():
            if not math.isnan(value):
                values.setdefault(step, []).append(value)
    steps = [step for step in sorted(values) if 2 * len(values[step]) >= len(histories)]
    return Band(
        steps=steps,
        mean=[math.fsum(values[step]) / len(values[step]) for step in steps],
        low=[min(values[step]) for step in steps],
        high=[max(values[step]) for step in steps],
    )


def learning_curves(
    histories: Mapping[str, Sequence[History]], metric_names: Sequence[str]
) -> bytes:
    """PNG: a panel for each metric and system; the mean over seeds in a band from least to most.

    The panels of a metric share their axes. One system's panels lie side by side, several systems'
    at most three in a row.

    Args:
      histories: of each system, a history a seed. A system alone may be called "", and is not
        named then.
      metric_names: metrics as the histories call them, without the split.
    """
    canvas.refuse_nothing(histories)
    canvas.refuse_nothing(metric_names)
    systems = list(histories)
    alone = len(systems) == 1
    rows, columns = canvas.rows_and_columns(len(systems))
    if alone:
        columns = len(metric_names)
    seeds = [history for histories_of_one in histories.values() for history in histories_of_one]
    marker = "." if max(map(len, seeds), default=0) <= _MANY_POINTS else ""

    def paint(figure: "Figure") -> None:
        panels = figure.subplots(
            rows if alone else rows * len(metric_names), columns, squeeze=False
        )
        for number, metric in enumerate(metric_names):
            title = _TITLES.get(metric, metric.replace("_", " "))
            own = list(panels[number * rows : (number + 1) * rows].flat)
            if alone:
                own = [panels[0][number]]
            for place, panel in enumerate(own):
                if place >= len(systems):
                    panel.remove()
                    continue
                if place:  # before anything is drawn, or the axes would fit the first alone
                    panel.sharex(own[0])
                    panel.sharey(own[0])
                _curves(panel, histories[systems[place]], metric, marker)
                panel.set_title(title if alone else canvas.title(systems[place]))
                if place % columns == 0 and not alone:
                    panel.set_ylabel(title)
                if place + columns >= len(systems):
                    panel.set_xlabel("step")
        if alone and systems[0]:
            figure.suptitle(canvas.label(systems[0]), fontsize=11)
        _legend(figure, any(len(histories[system]) > 1 for system in systems))

    if alone:
        return canvas.png(4.5 * columns, 3.8, paint)
    return canvas.png(3.3 * columns + 0.4, 2.4 * rows * len(metric_names) + 0.4, paint)


def png(history: History, task: Task) -> bytes:
    """A picture of `metrics.jsonl`; where the metric is the loss, it is shown once.

    Args:
      history: an entry an evaluation, with `step`, `train_loss`, `valid_loss` and the train and
        valid value of the task's plain metric: accuracy, or mae for regression.
      task: names that metric.
    """
    name = "mae" if task.is_regression else "accuracy"
    same = all(
        math.isclose(entry[f"{split}_loss"], entry[f"{split}_{name}"], rel_tol=1e-5)
        for entry in history
        for split in ("train", "valid")
    )
    return learning_curves({"": [history]}, [name] if same else ["loss", name])


def _curves(panel: "Axes", histories: Sequence[History], metric: str, marker: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for split, (_, style, colour) in _SPLITS.items():
        band = over_seeds(histories, f"{split}_{metric}")
        panel.plot(band.steps, band.mean, style, color=colour, marker=marker)
        if len(histories) > 1:
            panel.fill_between(band.steps, band.low, band.high, color=colour, alpha=0.18, lw=0)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _legend(figure: "Figure", several_seeds: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = [
        Line2D([], [], linestyle=style, color=colour, label=name)
        for name, style, colour in _SPLITS.values()
    ]
    if several_seeds:
        handles.append(Patch(color=canvas.REFERENCE, alpha=0.25, label="smallest to greatest seed"))
    canvas.legend(figure, handles)
