"""Pictures: what they show, what they leave out, and that odd input does not stop a report."""

import io
import math
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from msa_jax.report import canvas, comparisons, curves, figures
from msa_jax.report.comparisons import Curve, Interval
from msa_jax.report.figures import Calibration
from msa_jax.tasks import Task

NAN = float("nan")
CLASSES = ("negative", "neutral", "positive")
ODD = ("$x_$ \\frac", "_hidden", "\u4e2d\u6587\n\x00\udcff", "a" * 300, "")


def history(steps: int, **changes: Any) -> list[dict[str, Any]]:
    """A run that was evaluated every ten steps."""
    return [
        {
            "step": 10 * (i + 1),
            "train_loss": 1.0 / (i + 1),
            "valid_loss": 1.2 / (i + 1),
            "train_accuracy": 0.8 - 0.3 / (i + 1),
            "valid_accuracy": 0.7 - 0.3 / (i + 1),
            **changes,
        }
        for i in range(steps)
    ]


def calibration() -> Calibration:
    """Four bins, of which the first is empty."""
    return Calibration([NAN, 0.4, 0.6, 0.9], [NAN, 0.5, 0.5, 0.7], [0, 5, 20, 50], 0.14)


def weights() -> dict[str, dict[str, float]]:
    """Mean weights of two modalities, as the figure takes them."""
    return {"text": {"all": 0.6, "negative": 0.7}, "audio": {"all": 0.4, "negative": 0.3}}


def pixels(png: bytes) -> np.ndarray:
    """Red, green and blue in [0, 1], [height, width, 3]."""
    image = imread(io.BytesIO(png), format="png")
    assert np.ptp(image[..., :3]) > 0.5, "nothing is drawn"
    return np.asarray(image[..., :3])


def count(png: bytes, colour: str) -> int:
    """How many dots have this colour, to rounding."""
    return int((np.abs(pixels(png) - to_rgb(colour)).max(axis=-1) < 1 / 80).sum())


# Every picture with the size in inches it shall have.
PICTURES: dict[str, tuple[Callable[[], bytes], float, float]] = {
    "one system": (
        lambda: curves.learning_curves({"A1": [history(5)]}, ["loss", "accuracy"]),
        9.0,
        3.8,
    ),
    "four systems": (
        lambda: curves.learning_curves({n: [history(5)] * 2 for n in "abcd"}, ["loss"]),
        7.0,
        5.2,
    ),
    "single run": (lambda: curves.png(history(3), Task(kind="three_class")), 9.0, 3.8),
    "confusions": (
        lambda: figures.confusion_matrices({"A1": np.eye(3), "A2": np.ones((3, 3))}, CLASSES),
        6.9,
        3.25,
    ),
    "reliability": (lambda: figures.reliability({"A1": calibration()}), 3.4, 4.0),
    "weights": (lambda: figures.modality_weights(weights()), 4.8, 3.4),
    "intervals": (
        lambda: comparisons.intervals([Interval("A1", 71, 69, 73, 71.87)] * 3, majority=66),
        7.4,
        2.22,
    ),
    "robustness": (
        lambda: comparisons.robustness(
            {"noise": {"A1": Curve([0, 1], [0.8, 0.7], [0.7, 0.6], [0.9, 0.8])}}, constant=0.66
        ),
        4.8,
        3.12,
    ),
    "subsets": (lambda: comparisons.subsets({"text": 0.7, "none": 0.6}, constant=0.66), 6.4, 1.78),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_has_its_size_and_is_the_same_each_time(name: str) -> None:
    draw, width, height = PICTURES[name]
    before = dict(matplotlib.rcParams)
    first = draw()
    assert pixels(first).shape[:2] == pytest.approx((height * 120, width * 120), abs=1)
    assert draw() == first
    assert dict(matplotlib.rcParams) == before


def test_colours_are_told_apart_without_colour_vision_too() -> None:
    """As Vienot, Brettel and Mollon (1999) compute what protanopes and deuteranopes see."""
    linear = np.array([to_rgb(c) for c in canvas.COLOURS]) ** 2.2
    red_blind = [[0.1124, 0.8876, 0.0], [0.1124, 0.8876, 0.0], [0.0040, -0.0040, 1.0]]
    green_blind = [[0.2928, 0.7072, 0.0], [0.2928, 0.7072, 0.0], [-0.0223, 0.0223, 1.0]]
    for sight in (red_blind, green_blind):
        seen = np.clip(linear @ np.array(sight).T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert apart[~np.eye(len(seen), dtype=bool)].min() > 0.08


def test_seeds_that_stopped_early_count_as_far_as_they_went() -> None:
    seeds = [history(4, valid_loss=1.0), history(3, valid_loss=2.0), history(1, valid_loss=6.0)]
    band = curves.over_seeds(seeds, "valid_loss")
    assert band.steps == [10, 20, 30], "one of three seeds has step 40"
    assert band.mean == [3.0, 1.5, 1.5]
    assert band.low == [1.0, 1.0, 1.0]
    assert band.high == [6.0, 2.0, 2.0]
    assert curves.over_seeds(seeds[:2], "valid_loss").steps == [10, 20, 30, 40], "half have it"


@pytest.mark.parametrize("missing", [NAN, math.inf, None])
def test_a_value_that_is_none_is_as_if_absent(missing: float | None) -> None:
    seeds = [history(3), history(3), history(3)]
    seeds[0][1]["valid_loss"] = missing
    absent = [history(3), history(3), history(3)]
    del absent[0][1]["valid_loss"]
    assert curves.over_seeds(seeds, "valid_loss") == curves.over_seeds(absent, "valid_loss")
    assert curves.over_seeds(seeds, "valid_loss").steps == [10, 20, 30]
    draw = curves.learning_curves
    assert draw({"a": seeds}, ["loss"]) == draw({"a": absent}, ["loss"])
    nothing = history(3, valid_loss=missing, train_loss=missing)
    assert curves.over_seeds([nothing], "valid_loss").steps == []
    draw({"a": [nothing], "b": []}, ["loss"])


def test_the_order_of_seeds_and_of_entries_is_of_no_account() -> None:
    seeds = [history(4), history(2, valid_loss=0.3), history(3, valid_loss=0.7)]
    turned = [list(reversed(seed)) for seed in reversed(seeds)]
    draw = curves.learning_curves
    assert draw({"a": seeds}, ["loss"]) == draw({"a": turned}, ["loss"])


def test_one_seed_has_no_band_and_several_have() -> None:
    one = curves.learning_curves({"a": [history(5)]}, ["loss"])
    alike = curves.learning_curves({"a": [history(5)] * 3}, ["loss"])
    apart = curves.learning_curves(
        {"a": [history(5), history(5, valid_loss=0.1), history(5, valid_loss=0.9)]}, ["loss"]
    )
    pale = "#D1E5F1"  # validation's blue, 18 % of it on white
    assert count(one, pale) < 100, "the edges of lines alone"
    assert count(alike, pale) < 100
    assert count(apart, pale) > 10_000


def test_no_curve_leaves_its_panel() -> None:
    """The first system alone would set axes that the second lies outside of."""
    low, high = history(5, train_loss=0.1, valid_loss=0.1), history(5, train_loss=9, valid_loss=9)
    png = curves.learning_curves({"low": [low], "high": [high]}, ["loss"])
    heights = []
    for half in np.array_split(pixels(png)[:-60], 2, axis=1):
        rows, _ = np.nonzero(np.abs(half - to_rgb(canvas.colour(0))).max(axis=-1) < 0.1)
        assert len(rows) > 100
        heights.append(rows.mean())
    assert heights[0] > heights[1] + 100, "on the axis that both share, 0.1 lies far below 9"


def test_the_loss_is_shown_once_where_it_is_the_metric() -> None:
    entry = {"step": 1, "train_loss": 1.0, "valid_loss": 1.1, "train_mae": 1.0, "valid_mae": 1.1}
    alone = pixels(curves.png([entry], Task(kind="regression")))
    both = pixels(curves.png([{**entry, "valid_loss": 2.0}], Task(kind="regression")))
    assert 2 * alone.shape[1] == both.shape[1]


def test_confusions_are_shares_of_the_true_class() -> None:
    def middle(table: np.ndarray) -> np.ndarray:
        """The picture without the row names, which hold the numbers of utterances."""
        return pixels(figures.confusion_matrices({"a": table}, CLASSES))[:, 110:]

    table = np.array([[8, 2, 0], [1, 7, 2], [0, 5, 5]])
    np.testing.assert_array_equal(middle(table), middle(table * np.array([[2], [3], [4]])))
    assert (middle(table) != middle(table.T)).any()


def test_a_class_without_utterances_is_left_empty() -> None:
    empty = figures.confusion_matrices({"a": [[0, 0, 0], [0, 5, 0], [0, 0, 5]]}, CLASSES)
    palest = "#F7FBFF"  # a share of 0
    all_there = figures.confusion_matrices({"a": [[5, 0, 0], [0, 5, 0], [0, 0, 5]]}, CLASSES)
    assert 0 < count(empty, palest) < 0.8 * count(all_there, palest)


def test_confusions_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"A1: confusions \(2, 2\) of 3 classes"):
        figures.confusion_matrices({"A1": np.eye(2)}, CLASSES)


def test_empty_bins_are_left_out() -> None:
    empty = calibration()
    other = Calibration([0.1, 0.4, 0.6, 0.9], [1.0, 0.5, 0.5, 0.7], [0, 5, 20, 50], 0.14)
    assert figures.reliability({"a": empty}) == figures.reliability({"a": other})
    counted = Calibration([0.1, 0.4, 0.6, 0.9], [1.0, 0.5, 0.5, 0.7], [9, 5, 20, 50], 0.14)
    assert figures.reliability({"a": counted}) != figures.reliability({"a": other})
    figures.reliability({"a": Calibration([NAN], [NAN], [0], NAN)})


def test_weights_that_are_missing_are_left_out() -> None:
    given, without = weights(), weights()
    given["audio"]["negative"] = NAN
    del without["audio"]["negative"]
    assert figures.modality_weights(given) == figures.modality_weights(without)
    assert figures.modality_weights(given) != figures.modality_weights(weights())
    spread = {"text": {"all": 0.05, "negative": NAN}}
    assert figures.modality_weights(weights(), spread) != figures.modality_weights(weights())
    assert figures.modality_weights(weights(), {}) == figures.modality_weights(weights())


def test_the_papers_figure_and_the_majority_class_are_drawn_where_given() -> None:
    draw = comparisons.intervals
    red = canvas.colour(1)
    assert count(draw([Interval("a", 70, 69, 71)]), red) == 0
    assert count(draw([Interval("a", 70, 69, 71, paper=NAN)]), red) == 0
    assert count(draw([Interval("a", 70, 69, 71, paper=72.39)]), red) > 20
    bare = draw([Interval("a", 70, 69, 71)])
    assert draw([Interval("a", 70, 69, 71)], majority=NAN) == bare
    assert draw([Interval("a", 70, 69, 71)], majority=70.5) != bare


def test_a_row_without_a_value_keeps_its_place() -> None:
    rows = [Interval("a", 70, 69, 71), Interval("b", NAN, NAN, NAN), Interval("c", 70, NAN, NAN)]
    with_gap = comparisons.intervals(rows)
    assert pixels(with_gap).shape[0] == pytest.approx((1.2 + 3 * 0.34) * 120, abs=1)
    assert with_gap != comparisons.intervals([rows[0], Interval("b", 70, NAN, NAN), rows[2]])
    comparisons.intervals([rows[1]])


def test_levels_without_a_value_are_left_out() -> None:
    draw = comparisons.robustness
    gap = draw({"noise": {"a": Curve([0, 1, 2], [0.8, NAN, 0.6], [0.7, NAN, 0.5], [0.9, 1, 0.7])}})
    assert gap == draw({"noise": {"a": Curve([0, 2], [0.8, 0.6], [0.7, 0.5], [0.9, 0.7])}})
    assert gap != draw({"noise": {"a": Curve([0, 2], [0.8, 0.6])}}), "the band is drawn"
    assert draw({"noise": {"a": Curve([0, 1], [0.8, 0.6])}}, constant=NAN) == draw(
        {"noise": {"a": Curve([0, 1], [0.8, 0.6])}}
    )


def test_a_band_reaches_from_low_to_high() -> None:
    def area(low: float, high: float) -> int:
        curve = Curve([0, 1], [0.5, 0.5], [low, low], [high, high])
        edges = {"edges": Curve([0, 1], [0, 1])}  # keep the axes as they are
        return count(comparisons.robustness({"noise": {"a": curve, **edges}}), "#D9EAF3")

    assert area(0.3, 0.5) == pytest.approx(area(0.5, 0.7), rel=0.05)
    assert area(0.3, 0.7) == pytest.approx(2 * area(0.5, 0.7), rel=0.05)


def test_a_system_keeps_its_colour_in_every_panel() -> None:
    both = {"a": Curve([0, 1], [0.8, 0.6]), "b": Curve([0, 1], [0.7, 0.5])}
    png = comparisons.robustness({"noise": both, "gaps": {"b": both["b"]}})
    image = pixels(png)[:-60]  # without the legend
    second = image[:, int(0.6 * image.shape[1]) :]
    for index, there in enumerate((False, True)):
        same = np.abs(second - to_rgb(canvas.colour(index))).max(axis=-1) < 1 / 500
        assert same.any() == there


def test_subsets_stand_beside_the_constant() -> None:
    draw = comparisons.subsets
    values = {"text": 0.7, "none": NAN}
    assert count(draw(values), canvas.colour(1)) == 0
    assert count(draw(values, constant=0.66), canvas.colour(1)) > 20
    assert draw(values, constant=NAN) == draw(values)
    assert draw(values, deviations={"text": 0.02}) != draw(values)
    assert draw(values, deviations={"none": 0.02}) == draw(values)
    draw({"text": -0.2}, metric="correlation")


@pytest.mark.parametrize("name", ODD)
def test_names_may_hold_anything(name: str) -> None:
    curves.learning_curves({name: [history(2)], "b": [history(2)]}, ["loss"])
    figures.confusion_matrices({name: np.eye(2)}, [name, "b"])
    figures.reliability({name: calibration()})
    figures.modality_weights({name: {name: 0.5}})
    comparisons.intervals([Interval(name, 1, 0, 2)], majority=1, metric=name, trivial=name)
    comparisons.robustness(
        {name: {name: Curve([0], [1])}}, metric=name, level_names={name: name}, constant=1
    )
    comparisons.subsets({name: 1.0}, metric=name)


def test_a_name_with_an_underscore_is_in_the_legend() -> None:
    hidden, shown = (
        count(figures.modality_weights({name: {"all": 0.5}}), canvas.colour(0))
        for name in ("_text", "text")
    )
    assert hidden == pytest.approx(shown, rel=1e-4)


def test_long_names_stand_below_one_another() -> None:
    assert canvas.legend_columns(6.0, ["a", "b"]) == 2
    assert canvas.legend_columns(9.0, ["a"] * 9) == 4
    assert canvas.legend_columns(4.8, ["a" * 300, "b", "c"]) == 1


@pytest.mark.parametrize(("panels", "grid"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (7, (3, 3))])
def test_panels_fill_a_grid(panels: int, grid: tuple[int, int]) -> None:
    assert canvas.rows_and_columns(panels) == grid


def test_nothing_to_draw_is_said() -> None:
    for draw in (
        lambda: curves.learning_curves({}, ["loss"]),
        lambda: figures.confusion_matrices({}, CLASSES),
        lambda: figures.reliability({}),
        lambda: figures.modality_weights({}),
        lambda: comparisons.robustness({}),
        lambda: comparisons.intervals([]),
        lambda: comparisons.subsets({}),
    ):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw()
