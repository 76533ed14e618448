"""Pictures of systems beside one another: intervals, corrupted input, subsets of modalities."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from msa_jax.report import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_CONSTANT = "constant predictor"
_ROW = 0.34  # inches that a line of text or a bar takes


@dataclasses.dataclass(frozen=True)
class Interval:
    """A row of a forest plot.

    Attributes:
      label: the system.
      mean: the value, in the picture's unit.
      low: the interval's lower end; NaN where there is no interval.
      high: the interval's upper end.
      paper: what a publication reports of this system, in the same unit; None if nothing.
    """

    label: str
    mean: float
    low: float
    high: float
    paper: float | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric by level of corruption.

    Attributes:
      levels: [P] rates or noise levels.
      values: [P] the metric; NaN is left out.
      low: [P] lower edge of a band; empty without one.
      high: [P] upper edge.
    """

    levels: ArrayLike
    values: ArrayLike
    low: ArrayLike = ()
    high: ArrayLike = ()


def intervals(
    rows: Sequence[Interval],
    *,
    majority: float | None = None,
    metric: str = "accuracy (%)",
    decimals: int = 1,
    trivial: str = "majority class",
) -> bytes:
    """PNG: a forest plot, a row a system: its value, its interval, the paper's figure.

    Args:
      rows: top to bottom. A row whose mean is NaN keeps its place, with a dash.
      majority: a vertical line through all rows: what the `trivial` predictor scores.
      metric: name and unit of the values.
      decimals: of the values printed beside the rows.
      trivial: what the vertical line is called.
    """
    canvas.refuse_nothing(rows)

    def paint(figure: "Figure") -> None:
        from matplotlib.lines import Line2D

        panel = figure.subplots()
        blue, red = canvas.colour(0), canvas.colour(1)
        handles = [Line2D([], [], color=blue, marker="o", label="value and interval")]
        if majority is not None and not math.isnan(canvas.number(majority)):
            panel.axvline(majority, color=canvas.REFERENCE, linestyle="--", linewidth=1.2)
            handles.append(
                Line2D([], [], color=canvas.REFERENCE, linestyle="--", label=canvas.label(trivial))
            )
        shown = []
        for place, row in enumerate(rows):
            mean, low, high = (canvas.number(x) for x in (row.mean, row.low, row.high))
            shown.append("-" if math.isnan(mean) else f"{mean:.{decimals}f}")
            if not math.isnan(mean):
                panel.plot([mean], [place], "o", color=blue)
            if not math.isnan(low + high):
                panel.hlines(place, low, high, color=blue, linewidth=1.8)
                shown[-1] += f"  [{low:.{decimals}f}, {high:.{decimals}f}]"
            paper = canvas.number(row.paper)
            if not math.isnan(paper):
                panel.plot([paper], [place], "|", color=red, markersize=15, markeredgewidth=2.2)
        if any(not math.isnan(canvas.number(row.paper)) for row in rows):
            handles.append(
                Line2D(
                    [],
                    [],
                    color=red,
                    marker="|",
                    linestyle="",
                    markersize=11,
                    markeredgewidth=2.2,
                    label="the paper's figure",
                )
            )
        panel.set_yticks(range(len(rows)), [canvas.label(row.label) for row in rows])
        panel.set_ylim(len(rows) - 0.4, -0.6)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        panel.set_xlabel(canvas.label(metric))
        values = panel.secondary_yaxis("right")
        values.set_yticks(range(len(rows)), shown)
        values.tick_params(length=0)
        values.spines[:].set_visible(False)
        canvas.legend(figure, handles)

    return canvas.png(7.4, 1.2 + _ROW * max(len(rows), 2), paint)


def robustness(
    curves: Mapping[str, Mapping[str, Curve]],
    *,
    constant: float | None = None,
    metric: str = "accuracy",
    level_names: Mapping[str, str] | None = None,
) -> bytes:
    """PNG: a panel a corruption, a line a system, and what a constant predictor scores.

    Args:
      curves: of each corruption, of each system or checkpoint, its curve. A system has the same
        colour and marker in every panel. Bands are what the caller put in them.
      constant: a horizontal line; None if unknown.
      metric: name of the values.
      level_names: of each corruption, what its levels are; those not named are called "level".
    """
    canvas.refuse_nothing(curves)
    constant = None if math.isnan(canvas.number(constant)) else constant
    systems = list(dict.fromkeys(system for panel in curves.values() for system in panel))
    rows, columns = canvas.rows_and_columns(len(curves))

    def paint(figure: "Figure") -> None:
        panels = canvas.grid(figure, rows, columns, len(curves), sharey=True)
        for place, (panel, (corruption, lines)) in enumerate(
            zip(panels, curves.items(), strict=True)
        ):
            for system, curve in lines.items():
                _line(panel, curve, systems.index(system))
            if constant is not None:
                panel.axhline(constant, color=canvas.REFERENCE, linestyle="--", linewidth=1.2)
            panel.set_title(canvas.title(corruption))
            panel.set_xlabel(canvas.title((level_names or {}).get(corruption, "level")))
            if place % columns == 0:
                panel.set_ylabel(canvas.label(metric))
        canvas.legend(figure, _handles(systems, constant))

    width = max(3.1 * columns + 0.3, 4.8)
    names = [*systems, _CONSTANT]
    legend = 0.22 * math.ceil(len(names) / canvas.legend_columns(width, names))
    return canvas.png(width, 2.7 * rows + legend + 0.2, paint)


def _line(panel: "Axes", curve: Curve, index: int) -> None:
    levels, values, low, high = (
        np.asarray(numbers, np.float64)
        for numbers in (curve.levels, curve.values, curve.low, curve.high)
    )
    shown = np.isfinite(values)
    look: dict[str, Any] = {"color": canvas.colour(index), "marker": canvas.marker(index)}
    panel.plot(levels[shown], values[shown], **look)
    if len(low) and len(high):
        panel.fill_between(
            levels[shown], low[shown], high[shown], color=look["color"], alpha=0.15, linewidth=0
        )


def _handles(systems: Sequence[str], constant: float | None) -> "list[Line2D]":
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=canvas.colour(place),
            marker=canvas.marker(place),
            label=canvas.label(system),
        )
        for place, system in enumerate(systems)
    ]
    if constant is not None:
        handles.append(Line2D([], [], color=canvas.REFERENCE, linestyle="--", label=_CONSTANT))
    return handles


def subsets(
    values: Mapping[str, float],
    *,
    constant: float | None = None,
    metric: str = "accuracy",
    decimals: int = 3,
    deviations: Mapping[str, float] | None = None,
) -> bytes:
    """PNG: a bar for each subset of the modalities, and what a constant predictor scores.

    Args:
      values: of each subset, the metric, top to bottom. A NaN keeps its place, with a dash.
      constant: a vertical line; None if unknown.
      metric: name of the values.
      decimals: of the values printed at the bars' ends.
      deviations: standard deviations over seeds.
    """
    canvas.refuse_nothing(values)
    constant = None if math.isnan(canvas.number(constant)) else constant

    def paint(figure: "Figure") -> None:
        from matplotlib.lines import Line2D

        panel = figure.subplots()
        for place, (subset, given) in enumerate(values.items()):
            value = canvas.number(given)
            error = canvas.number((deviations or {}).get(subset))
            error = 0.0 if math.isnan(error) else error
            text, end = "-", 0.0
            if not math.isnan(value):
                panel.barh(place, value, 0.66, color=canvas.colour(0), alpha=0.85)
                text, end = f"{value:.{decimals}f}", max(value + error, 0.0)
            if error:
                panel.errorbar(value, place, xerr=error, color="black", capsize=3, linewidth=1)
            panel.annotate(text, (end, place), (5, 0), textcoords="offset points", va="center")
        if constant is not None:
            panel.axvline(constant, color=canvas.colour(1), linestyle="--", linewidth=1.4)
            line = Line2D([], [], color=canvas.colour(1), linestyle="--", label=_CONSTANT)
            canvas.legend(figure, [line])
        panel.set_yticks(range(len(values)), [canvas.label(subset) for subset in values])
        panel.set_ylim(len(values) - 0.4, -0.6)
        panel.margins(x=0.12)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        panel.set_xlabel(canvas.label(metric))

    return canvas.png(6.4, 1.1 + _ROW * max(len(values), 2), paint)
