"""Results as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

_COLUMNS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "weighted_f1": "weighted F1",
    "balanced_accuracy": "balanced",
    "mae": "MAE",
    "corr": "corr",
    "acc7": "Acc-7",
    "acc5": "Acc-5",
    "acc3": "Acc-3",
    "acc2_has0": "Has0",
    "f1_has0": "F1 Has0",
    "acc2_non0": "Non0",
    "f1_non0": "F1 Non0",
}
_NOT_RATES = ("mae", "corr")


def results(report: Mapping[str, Any]) -> str:
    """What `results.json` holds, as lines: a table a split, trivial baselines beside the model."""
    context = report.get("context", "none")
    model = report["model"] if context == "none" else f"{report['model']} in {context} context"
    what = f"{model} on {report['dataset']['fingerprint']}, {report['task']['kind']}"
    if "seeds" in report:
        chosen = f"{len(report['seeds'])} seeds, each at its best step by {report['selection']}"
    else:
        chosen = f"best step {report['step']} by {report['selection']}"
    speed = f"{_number(report['seconds'])} s, {_number(report['examples_per_second'])} examples/s"
    lines = [f"{what}, {chosen}, {speed}"]
    diverged = [name for name, each in report.get("seeds", {}).items() if each["diverged"]]
    if diverged:
        lines.append(f"  diverged, and counted in no figure: {', '.join(diverged)}")
    for name, part in report["splits"].items():
        table = seeds if "seeds" in report else split
        lines += [f"{name} ({part['n']} utterances)", *table(report["model"], part)]
    return "\n".join(lines)


def seeds(model: str, part: Mapping[str, Any]) -> list[str]:
    """The table of a split over seeds: mean, standard deviation, best, trivial baselines."""
    names = [name for name in _COLUMNS if name in part["metrics"]]
    rows = [["", *(_COLUMNS[name] for name in names)]]
    for label, figure in (
        (f"{model}, mean", "mean"),
        ("  standard deviation", "std"),
        ("  95 % low", "low"),
        ("  95 % high", "high"),
        ("  best of any seed", "best"),
    ):
        rows.append([label, *(_shown(name, part["metrics"][name][figure]) for name in names)])
    for baseline, values in part["baselines"].items():
        rows.append([baseline, *(_shown(name, values[name]) for name in names)])
    return _aligned(rows)


def split(model: str, part: Mapping[str, Any]) -> list[str]:
    """The table of a split: the model, its 95 % interval over videos, the trivial baselines."""
    names = [name for name in _COLUMNS if name in part["metrics"]]
    rows = [["", *(_COLUMNS[name] for name in names)]]
    rows.append([model, *(_shown(name, part["metrics"][name]) for name in names)])
    bounds = [part["intervals"][name] for name in names]
    rows.append(
        ["  95 % low", *(_shown(n, low) for n, (low, _) in zip(names, bounds, strict=True))]
    )
    rows.append(
        ["  95 % high", *(_shown(n, high) for n, (_, high) in zip(names, bounds, strict=True))]
    )
    for baseline, values in part["baselines"].items():
        rows.append([baseline, *(_shown(name, values[name]) for name in names)])
    lines = _aligned(rows)
    if "weights" in part:
        weights = ", ".join(f"{m} {value:.2f}" for m, value in part["weights"].items())
        lines.append(f"  mean weight of each modality: {weights}")
    return lines


def figures(found: Mapping[str, Any], indent: str = "") -> list[str]:
    """Lines of names and values, those of a nested mapping further in."""
    lines = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}", *figures(value, indent + "  ")]
        else:
            shown = value
            if isinstance(value, float):
                shown = f"{value:,.0f}" if abs(value) > 1000 else f"{value:.4g}"
            lines.append(f"{indent}{name:32s} {shown!s:>14}")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.0f}"


def _shown(name: str, value: float | None) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.3f}" if name in _NOT_RATES else f"{100 * value:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + row[0].ljust(widths[0])
        + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
