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

import numpy as np

from msa_jax import comparison, cpu, judgement, metrics, predictions, train, workers
from msa_jax import config as config_lib
from msa_jax.data import dataset
from msa_jax.errors import UserError
from msa_jax.predictions import PredictionTable
from msa_jax.tasks import Task
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
    """The systems in the order of the tables.

    DAF takes text and audio, as its paper does; where they are not among the modalities, all.

    Args:
      load: gives the `ConfigDict` of `configs/<name>.py`.
      modalities: those used.
      overrides: `{dotted name: value}` that replace what the configs say.
      workdir: of all systems; pre-trained encoders are found therein.
      brief: leaves out DAF's control and, unless `overrides` has epochs, gives three quarters of
        them.
    """

    def configured(name: str, own: Mapping[str, Any]) -> Any:
        config = load(name)
        config.update_from_flattened_dict({**overrides, **own})
        if brief and "training.epochs" not in overrides:
            config.training.epochs = max(1, round(0.75 * config.training.epochs))
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


def reproduce(
    found: Sequence[System], workdir: str, tell: Callable[[str], None], jobs: int = 1
) -> dict[str, Any]:
    """Trains what is not trained yet and judges all of it.

    Args:
      found: what `systems` gives; their configs share data, task and number of seeds.
      workdir: of all; each system's runs lie in a directory of its name.
      tell: is told what is being done.
      jobs: systems that are trained side by side, for a CPU; 1: in this process. Each has its
        share of the cores, so results of another number can differ in their last bits.

    Returns:
      What `report.json` holds, a JSON value: tables, comparisons, and what ran.

    Raises:
      UserError: if the config, the data or what lies in the directory do not fit.
    """
    start = time.perf_counter()
    runs = _train(found, workdir, tell, jobs)
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
        split: judgement.vote(
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
                split: judgement.of_system(task, tables[each.name][split], in_full=split == scored)
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
                    **{
                        bins: judgement.shares(split.scores, bins)
                        for bins in ("closed", "right_closed")
                    },
                }
                for name, split in data.splits.items()
            },
        },
        "task": {"kind": task.kind, "neutral": task.neutral, "classes": list(task.class_names)},
        "config": config_lib.to_dict(config),
        "judged_on": scored,
        "seeds": _seed_numbers(runs[found[0].name]),
        "systems": judged,
        "baselines": judgement.baselines(
            task, train_scores, {s: data.splits[s].scores for s in splits}
        ),
        "comparisons": _compare(
            task, found, {name: each[scored] for name, each in tables.items()}, judged, train_scores
        ),
        "environment": runs[found[-1].name]["environment"],
        "jobs": jobs,
        "seconds": time.perf_counter() - start,
    }


def _train(
    found: Sequence[System], workdir: str, tell: Callable[[str], None], jobs: int
) -> dict[str, dict[str, Any]]:
    """The results of every system by its name.

    What takes longest comes first, so that those side by side end together; but what starts from
    the encoders of others comes last: after them, and after what has the same program, which then
    need not be compiled again.
    """
    trained = [each for each in found if each.config is not None]
    trained.sort(key=lambda s: (bool(s.config.init.encoders), -len(s.config.data.modalities)))
    directories = {each.name: str(Workdir(workdir).member(each.name).path) for each in trained}
    runs: dict[str, dict[str, Any]] = {}
    for number, each in enumerate(trained, start=1):
        # What is finished is only told of: no process is started for that.
        if jobs == 1 or Workdir(directories[each.name]).results():
            tell(f"[{number}/{len(trained)}] {each.label}")
            runs[each.name] = train.train_and_evaluate(each.config, directories[each.name])
            _check_seeds(each, runs[each.name])
    tasks = [
        workers.Task(
            name=each.name,
            label=each.label,
            function=_train_alone,
            arguments=(each.config, directories[each.name]),
            after=[
                name
                for name, path in directories.items()
                if path in each.config.init.encoders and name not in runs
            ],
        )
        for each in trained
        if each.name not in runs
    ]
    by_name = {each.name: each for each in trained}
    for name, results in workers.run(tasks, jobs, tell):
        _check_seeds(by_name[name], results)
        runs[name] = results
    return runs


def _train_alone(config: Any, workdir: str) -> dict[str, Any]:
    """In one of the processes of `workers.run`."""
    cpu.prepare(config.num_seeds)
    return train.train_and_evaluate(config, workdir)


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


def _run(results: Mapping[str, Any] | None) -> dict[str, Any]:
    if results is None:
        return {}
    kept = ("parameters", "seconds", "examples_per_second", "seeds", "selection")
    return {name: results[name] for name in kept if name in results}


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
