"""The base paper's systems and DAF, each with many seeds, and what their predictions say together.

Table 1 of arXiv 2501.08085 holds the systems of one modality, Table 2 the fusions A0, A1 and A2.
The paper calls the encoders of A1 and A2 pre-trained; both that and training from scratch are run.
Sizes and optimiser are ours (see `configs/common.py`): the paper gives none. DAF (arXiv 2509.22729)
stands apart, beside the same model with a weight that is the same for all: its control.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from msa_jax import comparison, metrics, predictions, summary, train
from msa_jax import config as config_lib
from msa_jax.data import dataset
from msa_jax.errors import UserError
from msa_jax.models.late import combine_classes, combine_scores
from msa_jax.predictions import PredictionTable
from msa_jax.tasks import CLASS_NAMES, Task, three_class
from msa_jax.workdir import Workdir

# Test accuracy in % on CMU-MOSEI, arXiv 2501.08085, Tables 1 and 2.
# A1 and A2 are described with pre-trained encoders.
PAPER = {"vision": 65.69, "audio": 65.84, "text": 69.36, "late": 66.23}
PAPER |= {"early_pretrained": 71.87, "attention_pretrained": 72.39}
DAF = 3  # its table, which is of no paper's: DAF's own was not to be had
LABELS = {
    "late": "A0 late, majority vote",
    "early": "A1 early",
    "attention": "A2 attention",
    "early_pretrained": "A1 early, pre-trained",
    "attention_pretrained": "A2 attention, pre-trained",
    "daf": "DAF",
    "daf_uniform": "DAF's control, uniform weights",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """One row of the tables.

    Attributes:
      name: of its directory.
      label: for people.
      table: of the base paper, 1 or 2, or `DAF`.
      config: of its training; None where it is a vote of the systems of one modality.
    """

    name: str
    label: str
    table: int
    config: Any = None


def systems(
    load: Callable[[str], Any],
    modalities: Sequence[str],
    overrides: Mapping[str, Any],
    workdir: str,
    *,
    brief: bool = False,
) -> list[System]:
    """The systems in the order in which they are trained.

    DAF takes text and audio, as its paper does; where they are not among the modalities, all.

    Args:
      load: gives the `ConfigDict` of `configs/<name>.py`.
      modalities: those used.
      overrides: `{dotted name: value}` that replace what the configs say.
      workdir: of all systems; pre-trained encoders are found therein.
      brief: leaves out DAF's control, and gives pre-trained systems, whose encoders have been
        trained already, half the epochs.
    """

    def configured(name: str, own: Mapping[str, Any]) -> Any:
        config = load(name)
        config.update_from_flattened_dict({**overrides, **own})
        if brief and config.init.encoders:
            config.training.epochs = max(1, config.training.epochs // 2)
        return config

    unimodal = [
        System(name=m, label=m, table=1, config=configured("text", {"data.modalities": (m,)}))
        for m in modalities
    ]
    everything = {"data.modalities": tuple(modalities)}
    encoders = tuple(str(Workdir(workdir).member(m).path) for m in modalities)
    pretrained = {**everything, "init.encoders": encoders}
    heard = everything
    if {"text", "audio"} <= set(modalities):
        heard = {"data.modalities": tuple(m for m in modalities if m in ("text", "audio"))}
    return [
        *unimodal,
        System(name="late", label=LABELS["late"], table=2),
        *(
            System(name=name, label=LABELS[name], table=2, config=configured(name, everything))
            for name in ("early", "attention")
        ),
        *(
            System(
                name=f"{name}_pretrained",
                label=LABELS[f"{name}_pretrained"],
                table=2,
                config=configured(name, pretrained),
            )
            for name in ("early", "attention")
        ),
        *(
            System(name=name, label=LABELS[name], table=DAF, config=configured("daf", own))
            for name, own in (
                ("daf", heard),
                ("daf_uniform", {**heard, "model.gate": "uniform"}),
            )
            if not brief or name == "daf"
        ),
    ]


def reproduce(found: Sequence[System], workdir: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Trains what is not trained yet and judges all of it.

    Args:
      found: what `systems` gives; their configs share data and task.
      workdir: of all; each system's runs lie in a directory of its name.
      tell: is told what is being done.

    Returns:
      What `report.json` holds, a JSON value: tables, comparisons, and what ran.

    Raises:
      UserError: if the config, the data or what lies in the directory do not fit.
    """
    start = time.perf_counter()
    runs: dict[str, dict[str, Any]] = {}
    for number, each in enumerate(found, start=1):
        if each.config is not None:
            tell(f"[{number}/{len(found)}] {each.label}")
            runs[each.name] = train.train_and_evaluate(
                each.config, str(Workdir(workdir).member(each.name).path)
            )
            _check_seeds(each, runs[each.name])
    (plain,) = [each.config for each in found if each.name == "attention"]
    config = config_lib.resolve(plain)
    task = Task(kind=config.task.kind, neutral=config.task.neutral)
    data = dataset.load(config.data)
    splits = [split for split in data.splits if split != "train"]
    scored = splits[-1]  # test, where there is one
    tell("judging the predictions")
    tables = {
        each.name: {
            split: _seeds(Workdir(workdir).member(each.name), split, task) for split in splits
        }
        for each in found
        if each.config is not None
    }
    unimodal = [each.name for each in found if each.table == 1]
    tables["late"] = {
        split: _vote(
            task,
            [tables[m][split] for m in unimodal],
            np.stack([data.splits[split].lengths[m] > 0 for m in unimodal]),
        )
        for split in splits
    }
    train_scores = data.splits["train"].scores
    judged = {
        each.name: {
            "label": each.label,
            "table": each.table,
            "paper": PAPER.get(each.name),
            **_run(runs.get(each.name)),
            "epochs": each.config and int(each.config.training.epochs),
            "splits": {
                split: _judge(task, tables[each.name][split], in_full=split == scored)
                for split in splits
            },
        }
        for each in found
    }
    return {
        "dataset": data.summary,
        "card": {
            "fingerprint": data.schema.fingerprint,
            "splits": {
                name: {
                    "utterances": len(split),
                    "videos": len(set(split.video_ids)),
                    **{bins: _shares(split.scores, bins) for bins in ("closed", "right_closed")},
                }
                for name, split in data.splits.items()
            },
        },
        "task": {"kind": task.kind, "neutral": task.neutral, "classes": list(task.class_names)},
        "config": config_lib.to_dict(config),
        "judged_on": scored,
        "seeds": _seed_numbers(runs[found[0].name]),
        "systems": judged,
        "baselines": _baselines(task, train_scores, {s: data.splits[s].scores for s in splits}),
        "comparisons": _compare(
            task, found, {name: each[scored] for name, each in tables.items()}, judged, train_scores
        ),
        "environment": runs[found[-1].name]["environment"],
        "seconds": time.perf_counter() - start,
    }


def _check_seeds(system: System, results: Mapping[str, Any]) -> None:
    """Raises UserError if a seed diverged: none is left out of a table in silence."""
    diverged = [name for name, each in results.get("seeds", {}).items() if each["diverged"]]
    if diverged:
        raise UserError(
            f"{system.label}: {', '.join(diverged)} diverged, so the table would leave out the "
            "worst. Lower config.optimizer.learning_rate and use another --workdir."
        )


def histories(workdir: str, name: str) -> list[list[dict[str, Any]]]:
    """The learning curves of a system's seeds."""
    return [run.history(2**62) for run in _members(Workdir(workdir).member(name))]


def _members(run: Workdir) -> list[Workdir]:
    return [run.member(name) for name in run.seeds()] or [run]


def _seeds(run: Workdir, split: str, task: Task) -> list[PredictionTable]:
    return [
        predictions.read(member.path / f"predictions_{split}.csv", task) for member in _members(run)
    ]


def _seed_numbers(results: Mapping[str, Any]) -> list[int]:
    """The seeds of a run's `results.json`, of several or one."""
    several = [each["seed"] for each in results.get("seeds", {}).values()]
    return several or [results["seed"]]


def _shares(scores: np.ndarray, neutral: str) -> dict[str, float]:
    """The share of each of the paper's classes."""
    labels = three_class(scores, neutral)
    return {name: float(np.mean(labels == k)) for k, name in enumerate(CLASS_NAMES["three_class"])}


def _run(results: Mapping[str, Any] | None) -> dict[str, Any]:
    if results is None:
        return {}
    kept = ("parameters", "seconds", "examples_per_second", "seeds", "selection")
    return {name: results[name] for name in kept if name in results}


def _vote(
    task: Task, voters: Sequence[Sequence[PredictionTable]], present: np.ndarray
) -> list[PredictionTable]:
    """A0: seed by seed, the majority of the trained systems of one modality.

    As in the paper each voter is trained, and here selected, alone; an utterance's absent
    modalities do not vote. `present` is [M, N].
    """
    asked = present | ~present.any(axis=0)
    combine = combine_scores if task.is_regression else combine_classes
    result = []
    for seed in zip(*voters, strict=True):
        outputs = np.stack([table.outputs for table in seed])
        logits = outputs if task.is_regression else np.log(np.maximum(outputs, 1e-30))
        combined = np.asarray(combine(jnp.asarray(logits), jnp.asarray(asked), "majority"))
        outputs = combined if task.is_regression else np.exp(combined)
        result.append(dataclasses.replace(seed[0], outputs=outputs, weights={}))
    return result


def _judge(task: Task, seeds: Sequence[PredictionTable], *, in_full: bool) -> dict[str, Any]:
    """A system's metrics on a split and, `in_full`, what the figures show."""
    result: dict[str, Any] = {"n": len(seeds[0].scores), "metrics": summary.spread(task, seeds)}
    if not in_full:
        return result
    if seeds[0].weights:
        result["weights"] = _weights(task, seeds)
    if task.is_regression:
        return result
    truth = [task.labels(seed.scores) for seed in seeds]
    confusion = sum(
        metrics.confusion(labels, seed.outputs.argmax(axis=-1), task.num_outputs)
        for labels, seed in zip(truth, seeds, strict=True)
    )
    pooled = metrics.calibration(np.concatenate(truth), np.concatenate([s.outputs for s in seeds]))
    errors = [
        metrics.calibration(labels, seed.outputs).expected_error
        for labels, seed in zip(truth, seeds, strict=True)
    ]
    result |= {
        "confusion": np.asarray(confusion).tolist(),
        "calibration": {
            "expected_error": float(np.mean(errors)),
            "confidence": pooled.confidence.tolist(),
            "accuracy": pooled.accuracy.tolist(),
            "count": pooled.count.tolist(),
        },
    }
    if task.kind == "three_class":
        result["other_bins"] = summary.spread(other_bins(task), seeds)
    return result


def other_bins(task: Task) -> Task:
    """The task with the other closure of the neutral class."""
    return dataclasses.replace(
        task, neutral="right_closed" if task.neutral == "closed" else "closed"
    )


def _weights(task: Task, seeds: Sequence[PredictionTable]) -> dict[str, Any]:
    """`{modality: {group: {mean, std}}}`: over all utterances and by true class, over seeds."""
    labels = task.labels(seeds[0].scores)
    names = CLASS_NAMES["three_class"] if task.is_regression else task.class_names
    groups = {"all": np.ones(len(labels), bool)}
    groups |= {name: labels == k for k, name in enumerate(names)}
    return {
        m: {
            group: {
                "mean": float(np.mean(values)),
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
            }
            for group, rows in groups.items()
            if rows.any()
            for values in [[float(seed.weights[m][rows].mean()) for seed in seeds]]
        }
        for m in seeds[0].weights
    }


def _baselines(
    task: Task, train_scores: np.ndarray, splits: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """`{split: {baseline: metrics}}`; of three classes `other_bins` too."""

    def of(task: Task) -> dict[str, Any]:
        fitted = metrics.fit_baselines(task, train_scores)
        return {split: metrics.of_baselines(task, fitted, s) for split, s in splits.items()}

    result: dict[str, Any] = {"bins": of(task)}
    if task.kind == "three_class":
        result["other_bins"] = of(other_bins(task))
    return result


def _compare(
    task: Task,
    found: Sequence[System],
    tables: Mapping[str, Sequence[PredictionTable]],
    judged: Mapping[str, Any],
    train_scores: np.ndarray,
) -> list[dict[str, Any]]:
    """Paired comparisons on the same utterances, corrected together (Holm).

    Every system with the trivial baseline, every fusion with the modality that is best on
    validation, every two of the base paper's fusions, and DAF with its control.
    """
    measure = comparison.measure(task)
    each = {name: comparison.per_seed(task, seeds) for name, seeds in tables.items()}
    fitted = metrics.fit_baselines(task, train_scores)
    trivial = "median" if task.is_regression else "majority"
    scores = tables["late"][0].scores
    constant = np.full((len(scores), 1), fitted[trivial], np.float32)
    if not task.is_regression:
        constant = np.eye(task.num_outputs, dtype=np.float32)[np.full(len(scores), fitted[trivial])]
    each[trivial] = metrics.per_example(task, scores, constant)[None]
    validation = {
        s.name: judged[s.name]["splits"]["valid"]["metrics"][measure]["mean"]
        for s in found
        if s.table == 1
    }
    best = min(validation, key=lambda name: validation[name] * (1 if measure == "mae" else -1))
    fusions = [s.name for s in found if s.table == 2]
    pairs = [(s.name, trivial) for s in found]
    pairs += [(s.name, best) for s in found if s.table != 1]
    pairs += [(second, first) for first, second in itertools.combinations(fusions, 2)]
    if "daf_uniform" in tables:
        pairs += [("daf", "daf_uniform")]
    return comparison.paired(task, each, pairs, tables["late"][0].video_ids)
