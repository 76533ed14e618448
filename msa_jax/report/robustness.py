"""What `robustness.json` holds, as a document with pictures, tables and a verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from msa_jax.report import comparisons
from msa_jax.report.page import Block, Bullets, Document, Figure, Paragraph, Section, Table, code

_NAMES = {"accuracy": "accuracy (%)", "mae": "mean absolute error", "acc2_has0": "Has0 (%)"}
_NOT_RATES = ("mae",)
_SUBSETS = "subsets"


def document(report: Mapping[str, Any]) -> Document:
    """The document of a report (see `msa_jax.robustness.report`)."""
    models = report["models"]
    sections = [
        section
        for metric in report["constant"]
        for section in (
            Section(f"Missing frames, missing modalities, noise: {_NAMES[metric]}", [
                _curve_figure(report, metric),
                *(_curve_table(report, metric, name) for name in _curves(models)),
            ]),
            Section(f"Subsets of the modalities: {_NAMES[metric]}", [
                _subset_table(report, metric),
                *(_subset_figure(report, metric, number) for number in range(len(models))),
            ]),
        )
    ]  # fmt: skip
    return Document(
        title=f"Robustness on {report['split']}: {', '.join(code(name) for name in models)}",
        lead=[
            Paragraph(
                f"{report['n']} utterances of `{report['split']}`. The constant predictor, which "
                f"sees nothing, scores {_constants(report)}."
            ),
            *_verdicts(report),
        ],
        sections=[*sections, Section("How it was measured", [Bullets(_method(report))])],
    )


def lines(report: Mapping[str, Any]) -> list[str]:
    """For a terminal: of each model the area under each curve, and where it falls."""
    shown = [f"constant predictor on {report['split']}: {_constants(report)}"]
    for name, model in report["models"].items():
        shown.append(f"{name} ({len(model['runs'])} run{'s' * (len(model['runs']) > 1)})")
        for curve in model["curves"].values():
            for metric in report["constant"]:
                ends = [_value(model, curve["points"][end], metric) for end in (0, -1)]
                area = _area(curve, metric)
                mean = f", mean {area}" if area else ""
                shown.append(f"  {curve['title']}, {_NAMES[metric]}: {' to '.join(ends)}{mean}")
        fallen = model["below_constant"]
        shown += ["  no point falls below the constant predictor"] * (not fallen)
        shown += [
            f"  below the constant predictor: {_place(model, entry)}, {_NAMES[entry['metric']]} "
            f"{_number(entry['metric'], entry['value'])}"
            for entry in fallen
        ]
    return shown


def _constants(report: Mapping[str, Any]) -> str:
    return " and ".join(f"{_NAMES[m]} {_number(m, v)}" for m, v in report["constant"].items())


def _verdicts(report: Mapping[str, Any]) -> list[Block]:
    """For each model whether, and at which points, it falls below the constant predictor."""
    blocks: list[Block] = []
    for name, model in report["models"].items():
        fallen = model["below_constant"]
        if not fallen:
            text = f"{code(name)}: **no point falls below the constant predictor.**"
            blocks.append(Paragraph(text))
            continue
        text = f"{code(name)} **falls below the constant predictor** at {len(fallen)} points:"
        rows = [
            [
                _place(model, entry),
                _NAMES[entry["metric"]],
                _number(entry["metric"], entry["value"]),
                _number(entry["metric"], entry["constant"]),
                f"{entry['runs_below']} of {entry['runs']}",
            ]
            for entry in fallen
        ]
        header = ["where", "metric", "value", "constant", "runs below"]
        blocks += [Paragraph(text), Table(header, rows)]
    return blocks


def _place(model: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    if entry["place"] == _SUBSETS:
        return f"{' + '.join(entry['modalities'])} alone"
    return f"{model['curves'][entry['place']]['title']}: {entry['level']:g}"


def _curves(models: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Each curve that any model has, of the first that has it."""
    found: dict[str, Mapping[str, Any]] = {}
    for model in models.values():
        found |= {name: curve for name, curve in model["curves"].items() if name not in found}
    return found


def _curve_figure(report: Mapping[str, Any], metric: str) -> Figure:
    models, scale = report["models"], 1.0 if metric in _NOT_RATES else 100.0
    panels: dict[str, dict[str, comparisons.Curve]] = {}
    level_names = {}
    for name, described in _curves(models).items():
        title = described["title"]
        level_names[title] = described["axis"]
        panels[title] = {}
        for system, model in models.items():
            if name not in model["curves"]:
                continue
            points = model["curves"][name]["points"]
            values = [scale * p["metrics"][metric] for p in points]
            spread = [scale * _deviation(model, p, metric) for p in points]
            panels[title][system] = comparisons.Curve(
                levels=[p["level"] for p in points],
                values=values,
                low=[v - s for v, s in zip(values, spread, strict=True)],
                high=[v + s for v, s in zip(values, spread, strict=True)],
            )
    return Figure(
        name=f"curves_{metric}",
        png=comparisons.robustness(
            panels,
            constant=scale * report["constant"][metric],
            metric=_NAMES[metric],
            level_names=level_names,
        ),
        caption=(
            "Bands are one standard deviation: over runs where a model has several, else over mask "
            "seeds."
        ),
        alt=f"{_NAMES[metric]} by level of {', '.join(panels)}, and the constant predictor",
    )


def _curve_table(report: Mapping[str, Any], metric: str, name: str) -> Table:
    models = report["models"]
    described = _curves(models)[name]
    levels = [point["level"] for point in described["points"]]
    has_area = "area" in described
    rows = []
    for system, model in models.items():
        if name in model["curves"]:
            curve = model["curves"][name]
            values = [_value(model, point, metric) for point in curve["points"]]
            rows.append([code(system), *values, *([_area(curve, metric)] * has_area)])
    constant = _number(metric, report["constant"][metric])
    rows.append(["constant", *([constant] * (len(levels) + has_area))])
    header = ["", *(f"{level:g}" for level in levels), *(["area"] if has_area else [])]
    return Table(header, rows, caption=f"{_NAMES[metric]} by {described['title']}")


def _subset_table(report: Mapping[str, Any], metric: str) -> Table:
    models = report["models"]
    found = {
        system: {tuple(p["modalities"]): _value(model, p, metric) for p in model[_SUBSETS]}
        for system, model in models.items()
    }
    kept = dict.fromkeys(subset for values in found.values() for subset in values)
    constant = _number(metric, report["constant"][metric])
    rows = [
        [" + ".join(subset), *(values.get(subset, "-") for values in found.values()), constant]
        for subset in sorted(kept, key=len)
    ]
    return Table(["present", *(code(name) for name in found), "constant"], rows)


def _subset_figure(report: Mapping[str, Any], metric: str, number: int) -> Figure:
    name, model = list(report["models"].items())[number]
    scale = 1.0 if metric in _NOT_RATES else 100.0
    points = {" + ".join(p["modalities"]): p for p in model[_SUBSETS]}
    return Figure(
        name=f"subsets_{metric}_{number}",
        png=comparisons.subsets(
            {subset: scale * p["metrics"][metric] for subset, p in points.items()},
            constant=scale * report["constant"][metric],
            metric=_NAMES[metric],
            decimals=3 if metric in _NOT_RATES else 1,
            deviations={s: scale * _deviation(model, p, metric) for s, p in points.items()},
        ),
        caption=f"{code(name)} with some of its modalities, the others absent.",
        alt=f"{_NAMES[metric]} for each subset of the modalities",
    )


def _method(report: Mapping[str, Any]) -> Sequence[str]:
    runs = [
        f"{code(name)}: "
        + ", ".join(f"{code(run['workdir'])} at step {run['step']}" for run in model["runs"])
        for name, model in report["models"].items()
    ]
    seeds = ", ".join(str(seed) for seed in report["mask_seeds"])
    return [
        *runs,
        "One checkpoint a run, selected on complete validation data, gives all figures.",
        (
            "What is missing is masked, as an absent modality is; it is not replaced by zeros or "
            "by `[UNK]`. All frames of a modality may go, and with them the modality; a single "
            "vector counts as one frame. Where whole modalities go at random, an utterance keeps "
            "at least one."
        ),
        (
            f"Means over the mask seeds {seeds}. What is missing depends on the mask seed, the "
            "utterance, the modality and the frame alone: every model meets the same, and more "
            "is missing at a higher rate, never other frames instead."
        ),
        "Noise is Gaussian and added to the normalised features of all modalities.",
        (
            "The area is that under the curve, by the trapezoid rule, divided by its width: a mean "
            "over the rates. Noise has no last level, so it has none."
        ),
    ]


def _deviation(model: Mapping[str, Any], point: Mapping[str, Any], metric: str) -> float:
    """Over runs where there are several, else over mask seeds."""
    value: float = point["std_runs" if len(model["runs"]) > 1 else "std_masks"][metric]
    return value


def _value(model: Mapping[str, Any], point: Mapping[str, Any], metric: str) -> str:
    shown, deviation = _number(metric, point["metrics"][metric]), _deviation(model, point, metric)
    return f"{shown} ± {_number(metric, deviation)}" if deviation else shown


def _area(curve: Mapping[str, Any], metric: str) -> str:
    return _number(metric, curve["area"][metric]) if "area" in curve else ""


def _number(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric in _NOT_RATES else f"{100 * value:.1f}"
