"""Pictures of one result each: confusions, calibration, the weights of the modalities."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from msa_jax.report import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a reliability diagram shows of a system.

    Attributes:
      confidence: [bins] mean confidence in each of the bins that part [0, 1] evenly; NaN if empty.
      accuracy: [bins] share of right predictions in each bin; NaN if empty.
      count: [bins] utterances in each bin.
      ece: expected calibration error, in [0, 1].
    """

    confidence: ArrayLike
    accuracy: ArrayLike
    count: ArrayLike
    ece: float


def confusion_matrices(counts: Mapping[str, ArrayLike], class_names: Sequence[str]) -> bytes:
    """PNG: of each system, the share in % of each true class that was taken for each class.

    Args:
      counts: of each system, utterances [K, K]: a row a true class, a column a predicted one. A
        class without utterances has an empty row.
      class_names: [K].
    """
    size = len(class_names)
    canvas.refuse_nothing(counts)
    rows, columns = canvas.rows_and_columns(len(counts))
    names = [canvas.label(name, longest=14) for name in class_names]

    def paint(figure: "Figure") -> None:
        panels = canvas.grid(figure, rows, columns, len(counts))
        for place, (panel, (system, table)) in enumerate(zip(panels, counts.items(), strict=True)):
            found = np.asarray(table, np.float64)
            if found.shape != (size, size):
                raise ValueError(f"{system}: confusions {found.shape} of {size} classes")
            totals = found.sum(axis=1, keepdims=True)
            shares = np.divide(found, totals, out=np.full_like(found, np.nan), where=totals > 0)
            panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            for (truth, predicted), share in np.ndenumerate(shares):
                if not math.isnan(share):
                    ink = "white" if share > 0.55 else "black"
                    text = f"{100 * share:.0f}" if size > 4 else f"{100 * share:.1f}"
                    panel.text(predicted, truth, text, color=ink, ha="center", va="center")
            panel.set_title(canvas.title(system))
            panel.set_xticks(range(size), names)
            panel.set_yticks(
                range(size),
                [f"{name}\n({total:.0f})" for name, total in zip(names, totals[:, 0], strict=True)],
            )
            panel.grid(visible=False)
            panel.tick_params(length=0)
            panel.spines[:].set_visible(False)
            if place % columns == 0:
                panel.set_ylabel("truth (utterances)")
            if place + columns >= len(counts):
                panel.set_xlabel("prediction (% of the truth's row)")

    side = max(2.9, 0.5 * size)
    return canvas.png((side + 0.55) * columns, (side + 0.35) * rows, paint)


def reliability(systems: Mapping[str, Calibration]) -> bytes:
    """PNG: accuracy by confidence of each system, above how many utterances had that confidence.

    Points below the diagonal are overconfident. The expected calibration error is in the title.
    """
    canvas.refuse_nothing(systems)
    rows, columns = canvas.rows_and_columns(len(systems))

    def paint(figure: "Figure") -> None:
        heights = [3.0, 1.0] * rows
        panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=heights)
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            diagram, histogram = panels[2 * row][column], panels[2 * row + 1][column]
            if place >= len(systems):
                diagram.remove()
                histogram.remove()
                continue
            system = list(systems)[place]
            _reliability(diagram, histogram, systems[system])
            diagram.set_title(f"{canvas.title(system)}\nECE {systems[system].ece:.3f}")
            if column == 0:
                diagram.set_ylabel("accuracy")
                histogram.set_ylabel("utterances")

    return canvas.png(3.1 * columns + 0.3, 4.0 * rows, paint)


def _reliability(diagram: "Axes", histogram: "Axes", found: Calibration) -> None:
    confidence, accuracy, count = (
        np.asarray(values, np.float64) for values in (found.confidence, found.accuracy, found.count)
    )
    shown = (count > 0) & np.isfinite(confidence) & np.isfinite(accuracy)
    confidence, accuracy = confidence[shown], accuracy[shown]
    diagram.plot([0, 1], [0, 1], "--", color=canvas.REFERENCE, linewidth=1)
    diagram.vlines(confidence, confidence, accuracy, color=canvas.colour(1), linewidth=1.2)
    diagram.plot(confidence, accuracy, "-o", color=canvas.colour(0))
    diagram.set(xlim=(0, 1), ylim=(0, 1), xticks=np.linspace(0, 1, 6))
    diagram.tick_params(labelbottom=False)
    edges = np.linspace(0, 1, len(count) + 1)
    histogram.bar(
        edges[:-1], count, 0.9 / len(count), align="edge", color=canvas.colour(0), alpha=0.75
    )
    histogram.set(xlim=(0, 1), xticks=np.linspace(0, 1, 6), xlabel="confidence")


def modality_weights(
    weights: Mapping[str, Mapping[str, float]],
    deviations: Mapping[str, Mapping[str, float]] | None = None,
) -> bytes:
    """PNG: the mean weight of each modality, over all utterances and by class.

    Args:
      weights: of each modality, the mean weight, in [0, 1], of each group of utterances: "all" and
        the classes' names, in the order they are shown. What is missing or NaN is left out.
      deviations: of the same, standard deviations over seeds.
    """
    canvas.refuse_nothing(weights)
    groups = list(dict.fromkeys(group for values in weights.values() for group in values))
    wide = 0.8 / len(weights)

    def paint(figure: "Figure") -> None:
        panel = figure.subplots()
        top = 0.0
        for place, (modality, values) in enumerate(weights.items()):
            spread = (deviations or {}).get(modality, {})
            for slot, group in enumerate(groups):
                value = canvas.number(values.get(group))
                if math.isnan(value):
                    continue
                error = canvas.number(spread.get(group))
                error = 0.0 if math.isnan(error) else error
                x = slot - 0.4 + wide * (place + 0.5)
                panel.bar(x, value, 0.92 * wide, color=canvas.colour(place))
                if error:
                    panel.errorbar(x, value, error, color="black", capsize=3, linewidth=1)
                top = max(top, value + error)
                panel.annotate(
                    f"{value:.2f}",
                    (x, value + error),
                    (0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
        panel.set_xticks(range(len(groups)), [canvas.label(group, longest=20) for group in groups])
        panel.set_xlim(-0.6, len(groups) - 0.4)
        panel.set_ylim(0, 1.1 * top or 1)
        panel.grid(visible=False, axis="x")
        panel.set_ylabel("mean weight")
        _legend(figure, list(weights))

    return canvas.png(max(4.8, 0.6 + 0.52 * len(groups) * (len(weights) + 0.5)), 3.4, paint)


def _legend(figure: "Figure", names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=canvas.colour(place), label=canvas.label(name))
        for place, name in enumerate(names)
    ]
    canvas.legend(figure, handles)
