"""The report of a reproduction: what `msa_jax.reproduce` found, for people."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msa_jax.report import comparisons, curves, figures
from msa_jax.report.page import (
    Block,
    Bullets,
    Document,
    Figure,
    Paragraph,
    Section,
    Table,
    code,
    literal,
)

_SIGNIFICANT = 0.05
_CLASSES = ("accuracy", "macro_f1", "balanced_accuracy")
_REGRESSION = {
    "mae": "MAE",
    "corr": "correlation",
    "acc2_has0": "Has0",
    "acc2_non0": "Non0",
    "f1_has0": "F1 Has0",
    "f1_non0": "F1 Non0",
    "acc7": "Acc-7",
}
_CAPTIONS = {
    1: "Table 1: one modality.",
    2: "Table 2: fusion.",
    3: "Dynamic attention fusion (arXiv 2509.22729, our reconstruction).",
}
_SHARES = ("negative", "neutral", "positive")
_NOT_RATES = ("mae", "corr")
_BINS = {"closed": "[-1, 1]", "right_closed": "(-1, 1]"}


def document(
    report: Mapping[str, Any],
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
) -> Document:
    """The page of a `report.json` and of the systems' learning curves, a history a seed."""
    regression = report["task"]["kind"] == "regression"
    sections = [
        Section("Tables", _tables(report)),
        Section("Which differences are real", _differences(report)),
        Section("Learning curves", [_curves(report, histories)]),
    ]
    if not regression:
        sections.append(Section("Errors and confidence", _errors(report)))
    weights = _weights(report)
    if weights:
        sections.append(Section("What the attention looks at", weights))
    sections.append(Section("What ran", _record(report)))
    return Document(
        title="Dynamic Multimodal Sentiment Analysis, reproduced",
        lead=_lead(report),
        sections=sections,
    )


def sentence(comparison: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """A comparison in words."""
    first, second = labels[comparison["first"]], labels[comparison["second"]]
    lower_is_better = comparison["measure"] == "mae"
    gain = -comparison["difference"] if lower_is_better else comparison["difference"]
    half = (comparison["high"] - comparison["low"]) / 2
    p = _p(comparison["p_adjusted"])
    if math.isnan(comparison["p_adjusted"]):
        return f"{first} and {second} cannot be told apart: nothing varies."
    amount = (
        f"{abs(gain):.3f} ± {half:.3f} of MAE"
        if lower_is_better
        else f"{100 * abs(gain):.1f} ± {100 * half:.1f} points"
    )
    if comparison["p_adjusted"] < _SIGNIFICANT:
        verb = "beats" if gain > 0 else "falls short of"
        return f"**{first} {verb} {second}** by {amount} ({p})."
    verb = "leads" if gain > 0 else "trails"
    return f"{first} {verb} {second} by {amount}: **not distinguishable** ({p})."


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _labels(report: Mapping[str, Any]) -> dict[str, str]:
    trivial = {"majority": "the majority class", "median": "the median score"}
    return trivial | {name: literal(each["label"]) for name, each in report["systems"].items()}


def _lead(report: Mapping[str, Any]) -> list[Block]:
    labels = _labels(report)
    trivial = "median" if report["task"]["kind"] == "regression" else "majority"
    seeds, split = len(report["seeds"]), report["judged_on"]
    n = next(iter(report["systems"].values()))["splits"][split]["n"]
    wanted = [("attention_pretrained", "early_pretrained"), ("attention", "early")]
    wanted += [("attention_pretrained", "attention"), ("early", "late"), ("daf", "daf_uniform")]
    above = [
        labels[c["first"]]
        for c in report["comparisons"]
        if c["second"] == trivial and not _is_better(c)
    ]
    said = [
        sentence(c, labels)
        for pair in wanted
        for c in report["comparisons"]
        if (c["first"], c["second"]) == pair
    ]
    beaten = (
        f"Not shown to be better than {labels[trivial]}: {', '.join(above)}."
        if above
        else f"Every system beats {labels[trivial]}."
    )
    return [
        Paragraph(
            f"The systems of arXiv 2501.08085 and DAF, {seeds} seed{'s' if seeds > 1 else ''} "
            f"each, on {code(report['dataset']['fingerprint'])}; every figure is of the {split} "
            f"split ({n} utterances), every checkpoint was chosen on validation alone."
        ),
        Bullets([*said, beaten]),
    ]


def _is_better(comparison: Mapping[str, Any]) -> bool:
    sign = -1 if comparison["measure"] == "mae" else 1
    return comparison["p_adjusted"] < _SIGNIFICANT and sign * comparison["difference"] > 0


def _tables(report: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for number, caption in _CAPTIONS.items():
        rows = [name for name, each in report["systems"].items() if each["table"] == number]
        make = _regression_table if report["task"]["kind"] == "regression" else _class_table
        blocks.append(make(report, rows, caption))
    measure = "mae" if report["task"]["kind"] == "regression" else "accuracy"
    scale = 1 if measure == "mae" else 100
    split = report["judged_on"]
    shown = [
        comparisons.Interval(
            label=each["label"],
            mean=scale * each["splits"][split]["metrics"][measure]["mean"],
            low=scale * each["splits"][split]["metrics"][measure]["low"],
            high=scale * each["splits"][split]["metrics"][measure]["high"],
            paper=each["paper"] if report["task"]["kind"] == "three_class" else None,
        )
        for each in report["systems"].values()
    ]
    trivial = "median" if measure == "mae" else "majority"
    line = scale * report["baselines"]["bins"][split][trivial][measure]
    words = "median score" if measure == "mae" else "majority class"
    png = comparisons.intervals(
        shown,
        majority=line,
        metric="mean absolute error" if measure == "mae" else "accuracy (%)",
        decimals=3 if measure == "mae" else 1,
        trivial=words,
    )
    caption = (
        f"Mean over seeds, with its 95 % interval over seeds and videos; the line: the {words}."
    )
    if any(row.paper is not None for row in shown):
        caption += " The paper's figures are of CMU-MOSEI."
    return [*blocks, Figure(name="systems", png=png, caption=caption, alt=caption)]


def _class_table(report: Mapping[str, Any], names: Sequence[str], caption: str) -> Table:
    split, three = report["judged_on"], report["task"]["kind"] == "three_class"
    majority = report["baselines"]["bins"][split]["majority"]
    header = ["system", *(["paper"] if three else []), "accuracy", "interval", "seeds", "best"]
    header += ["macro-F1", "balanced", *(["other bins"] if three else [])]
    row = ["majority class", *([""] if three else []), _percent(majority["accuracy"]), "", "", ""]
    row += [_percent(majority[m]) for m in _CLASSES[1:]]
    if three:
        row += [_percent(report["baselines"]["other_bins"][split]["majority"]["accuracy"])]
    rows = [row]
    for name in names:
        each = report["systems"][name]
        found = each["splits"][split]["metrics"]
        main = found["accuracy"]
        row = [literal(each["label"])]
        if three:
            row += ["-" if each["paper"] is None else f"{each['paper']:.2f}"]
        row += [_mean(main), _range(main["low"], main["high"])]
        row += [_range(main["seeds_low"], main["seeds_high"]), _percent(main["best"])]
        row += [_mean(found[m]) for m in _CLASSES[1:]]
        if three:
            row += [_mean(each["splits"][split]["other_bins"]["accuracy"])]
        rows.append(row)
    notes = [
        "In %, mean ± standard deviation over seeds.",
        "The 95 % interval is over seeds and videos; beside it that over seeds alone.",
        "The best of any seed is picked on this split: read it as what not to report.",
    ]
    if three:
        trained = report["task"]["neutral"]
        (other,) = set(_BINS) - {trained}
        notes.append(
            f"Trained and selected with neutral as {_BINS[trained]}; the last column judges the "
            f"same predictions with {_BINS[other]}. The paper, whose figures are of CMU-MOSEI, "
            "does not say which of them it used; it describes the encoders of A1 and A2 as "
            "pre-trained."
        )
    return Table(header, rows, caption=caption, notes=notes)


def _regression_table(report: Mapping[str, Any], names: Sequence[str], caption: str) -> Table:
    split = report["judged_on"]
    header = ["system", *_REGRESSION.values(), "MAE, 95 % interval", "Has0, 95 % interval"]
    rows = []
    for baseline, values in report["baselines"]["bins"][split].items():
        shown = [_shown(m, values[m]) for m in _REGRESSION]
        rows.append([f"constant: {baseline.replace('_', ' ')}", *shown, "", ""])
    for name in names:
        each = report["systems"][name]
        found = each["splits"][split]["metrics"]
        rows.append(
            [
                literal(each["label"]),
                *(
                    f"{_shown(m, found[m]['mean'])} ± {_shown(m, found[m]['std'])}"
                    for m in _REGRESSION
                ),
                *(
                    f"{_shown(m, found[m]['low'])} to {_shown(m, found[m]['high'])}"
                    for m in ("mae", "acc2_has0")
                ),
            ]
        )
    notes = [
        "Mean ± standard deviation over seeds; rates in %. Intervals are over seeds and videos.",
        "Has0: negative against non-negative; Non0: negative against positive, zeros left out.",
        "The best constant takes for each metric its own.",
    ]
    return Table(header, rows, caption=caption, notes=notes)


def _differences(report: Mapping[str, Any]) -> list[Block]:
    labels = _labels(report)
    trivial = "median" if report["task"]["kind"] == "regression" else "majority"
    among = [c for c in report["comparisons"] if c["second"] != trivial]
    return [
        Paragraph(
            "Each sentence compares two systems on the same utterances. The test takes seeds and "
            "videos as random (utterances of one video are alike), and p is corrected for all "
            f"{len(report['comparisons'])} comparisons (Holm). ± is half of the 95 % interval of "
            "that difference alone, which is not corrected."
        ),
        Bullets([sentence(c, labels) for c in report["comparisons"] if c["second"] == trivial]),
        Bullets([sentence(c, labels) for c in among]),
    ]


def _curves(report: Mapping[str, Any], histories: Mapping[str, Any]) -> Figure:
    kind = report["task"]["kind"]
    shown = {
        report["systems"][name]["label"]: seeds for name, seeds in histories.items() if any(seeds)
    }
    names = ["mae"] if kind == "regression" else ["loss", "accuracy"]
    caption = (
        "Training (dashed) and validation, mean and range over seeds: the paper's figures 1 to 5, "
        "and those it does not show."
    )
    png = curves.learning_curves(shown, names)
    return Figure(name="learning-curves", png=png, caption=caption, alt=caption)


def _errors(report: Mapping[str, Any]) -> list[Block]:
    split = report["judged_on"]
    systems = {each["label"]: each["splits"][split] for each in report["systems"].values()}
    confusion = figures.confusion_matrices(
        {label: each["confusion"] for label, each in systems.items()}, report["task"]["classes"]
    )
    reliability = figures.reliability(
        {
            label: figures.Calibration(
                confidence=each["calibration"]["confidence"],
                accuracy=each["calibration"]["accuracy"],
                count=each["calibration"]["count"],
                ece=each["calibration"]["expected_error"],
            )
            for label, each in systems.items()
        }
    )
    errors = "What became of each true class, in % of it, over all seeds."
    confidence = (
        "Accuracy by confidence, seeds pooled; ECE, the expected calibration error, is the mean "
        "over seeds (15 bins of even width). A vote's confidence is the share of the votes."
    )
    return [
        Figure(name="confusion", png=confusion, caption=errors, alt=errors),
        Figure(name="reliability", png=reliability, caption=confidence, alt=confidence),
    ]


def _weights(report: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for name, each in report["systems"].items():
        found = each["splits"][report["judged_on"]].get("weights")
        if not found or name == "daf_uniform":  # whose weights are the same for all
            continue
        mean, std = (
            {m: {g: v[which] for g, v in groups.items()} for m, groups in found.items()}
            for which in ("mean", "std")
        )
        caption = (
            f"{each['label']}: the mean weight of each modality, over all utterances and by true "
            "class; bars of error are standard deviations over seeds."
        )
        blocks.append(
            Figure(
                name=f"weights-{name.replace('_', '-')}",
                png=figures.modality_weights(mean, std),
                caption=literal(caption),
                alt=caption,
            )
        )
    return blocks


def _record(report: Mapping[str, Any]) -> list[Block]:
    data, environment = report["dataset"], report["environment"]
    rows = [
        [
            literal(each["label"]),
            str(each.get("parameters", "-")),
            str(each.get("epochs") or "-"),
            f"{each['seconds']:.0f}" if each.get("seconds") else "-",
            f"{each['examples_per_second']:.0f}" if each.get("examples_per_second") else "-",
        ]
        for each in report["systems"].values()
    ]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    config = report["config"]
    encoder, training = config["model"]["encoder"], config["training"]
    sizes = (
        f"Encoder: width {encoder['width']}, {encoder['num_layers']} layers, "
        f"{encoder['num_heads']} heads; batch {training['batch_size']}, learning "
        f"rate {config['optimizer']['learning_rate']:g}. The paper gives none of these: they are "
        "ours. Each run's own config.json has every field."
    )
    machine = (
        f"Device: {literal(environment['device'])}, {environment['cores']} cores; systems at once: "
        f"{report['jobs']}; Python {environment['python']}; {packages}."
    )
    header = ["split", "utterances", "videos"]
    header += [f"{name}, neutral {bins}" for bins in _BINS.values() for name in _SHARES]
    shares = [
        [
            name,
            *(str(split[count]) for count in header[1:3]),
            *(_percent(split[bins][name]) for bins in _BINS for name in _SHARES),
        ]
        for name, split in report["card"]["splits"].items()
    ]
    return [
        Table(header, shares, caption="The data; shares of classes in %."),
        Table(
            ["system", "parameters", "epochs", "seconds", "examples/s, all seeds"],
            rows,
            notes=["A0 is the vote of the systems of one modality, seed by seed: not trained."],
        ),
        Bullets(
            [
                f"Data: {code(data['fingerprint'])}.",
                *(literal(note) for note in data["notes"]),
                f"Task: {report['task']['kind']}, neutral {_BINS[report['task']['neutral']]}.",
                *(
                    [f"Context: {context}. The systems see an utterance's neighbours in its video."]
                    if (context := config["model"].get("context", {}).get("kind", "none")) != "none"
                    else []
                ),
                sizes,
                f"Seeds: {', '.join(map(str, report['seeds']))}.",
                machine,
                f"This report took {report['seconds']:.0f} s, with what was still to be trained.",
            ]
        ),
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def _range(low: float | None, high: float | None) -> str:
    return f"{_percent(low)} to {_percent(high)}"


def _mean(found: Mapping[str, Any]) -> str:
    return f"{_percent(found['mean'])} ± {_percent(found['std'])}"


def _shown(name: str, value: float | None) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.3f}" if name in _NOT_RATES else _percent(value)
