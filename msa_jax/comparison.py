"""Whether finished runs differ: their metrics side by side, and a paired test of every two."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msa_jax import metrics, predictions, statistics, summary, workdir
from msa_jax.errors import UserError
from msa_jax.predictions import PredictionTable
from msa_jax.tasks import Task
from msa_jax.workdir import Workdir


def compare(workdirs: Sequence[str], split: str = "test") -> dict[str, Any]:
    """What finished runs predict for the same utterances, compared.

    Args:
      workdirs: of runs, or of several seeds of a system, which are taken together.
      split: whose predictions the runs wrote.

    Returns:
      JSON values: `task`, `split`, `n`, `measure` (accuracy, or mae of a regression), `baselines`,
      `systems` (`{name: {seeds, context, metrics}}`, as `summary.spread` gives them) and
      `comparisons` of every two, corrected together (Holm); see `statistics.compare`.

    Raises:
      UserError: if a run is not finished, or the runs' task or utterances are not the same.
    """
    tables, tasks, baselines, contexts = {}, {}, {}, {}
    for name, directory in workdir.names(workdirs).items():
        seeds = workdir.runs(directory)
        _check_whole(directory)
        results = _results(seeds[0], split)
        task = Task(kind=results["task"]["kind"], neutral=results["task"]["neutral"])
        tasks[name], baselines[name] = task, results["splits"][split]["baselines"]
        contexts[name] = results.get("context", "none")
        tables[name] = [
            predictions.read(Workdir(run).path / f"predictions_{split}.csv", task) for run in seeds
        ]
    first, task = next(iter(tables)), next(iter(tasks.values()))
    for name in tables:
        _check_alike(first, name, tasks, tables)
    each = {name: per_seed(task, seeds) for name, seeds in tables.items()}
    videos = tables[first][0].video_ids
    pairs = [(b, a) for a, b in itertools.combinations(tables, 2)]
    return {
        "task": dataclasses.asdict(task),
        "split": split,
        "n": len(videos),
        "measure": measure(task),
        "baselines": baselines[first],
        "systems": {
            name: {
                "seeds": len(seeds),
                "context": contexts[name],
                "metrics": summary.spread(task, seeds),
            }
            for name, seeds in tables.items()
        },
        "comparisons": paired(task, each, pairs, videos),
    }


def measure(task: Task) -> str:
    """What is compared: the mean absolute error of a regression, else the accuracy."""
    return "mae" if task.is_regression else "accuracy"


def per_seed(task: Task, seeds: Sequence[PredictionTable]) -> np.ndarray:
    """[S, N] what is averaged into the measure, of each utterance under each seed."""
    return np.stack([metrics.per_example(task, seed.scores, seed.outputs) for seed in seeds])


def paired(
    task: Task,
    each: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    video_ids: Sequence[str],
) -> list[dict[str, Any]]:
    """Comparisons on the same utterances, corrected together (Holm); see `statistics.compare`.

    Args:
      task: of all systems.
      each: `{name: [S, N]}` as `per_seed` gives it.
      pairs: names of the first and the second system of each comparison.
      video_ids: N names.
    """
    groups = np.asarray(video_ids)
    compared = [statistics.compare(each[a], each[b], groups) for a, b in pairs]
    adjusted = statistics.holm(np.array([c.p_value for c in compared]))
    return [
        {
            "first": a,
            "second": b,
            "measure": measure(task),
            **dataclasses.asdict(comparison),
            "p_adjusted": float(p),
        }
        for (a, b), comparison, p in zip(pairs, compared, adjusted, strict=True)
    ]


def _check_whole(directory: str) -> None:
    """Raises UserError if a seed would be left out in silence."""
    run = Workdir(directory)
    if not run.seeds():
        return
    results = run.results()
    if results is None:
        raise UserError(f"{directory} is not finished: go on with its training command first.")
    diverged = [name for name, each in results.get("seeds", {}).items() if each["diverged"]]
    if diverged:
        raise UserError(
            f"{directory}: {', '.join(diverged)} diverged, so the comparison would leave out the "
            "worst. Lower config.optimizer.learning_rate and train again."
        )


def _results(run: str, split: str) -> Mapping[str, Any]:
    results = Workdir(run).results()
    if results is None:
        raise UserError(f"{run} is not finished: go on with its training command first.")
    known = list(results.get("splits", {}))
    if split not in known:
        raise UserError(f"{run} has no predictions of {split}, only of {known or 'trials'}.")
    return results


def _check_alike(
    first: str,
    name: str,
    tasks: Mapping[str, Task],
    tables: Mapping[str, Sequence[PredictionTable]],
) -> None:
    one, other = tables[first][0], tables[name][0]
    if len(set(one.video_ids)) < 2:
        raise UserError(f"{first}: all utterances are of one video: there is nothing to test with.")
    alike = list(one.ids) == list(other.ids) and np.array_equal(one.scores, other.scores)
    if tasks[first] != tasks[name] or not alike:
        raise UserError(
            f"{first} ({tasks[first].kind} of {len(one.ids)} utterances) and {name} "
            f"({tasks[name].kind} of {len(other.ids)}) cannot be compared: give runs of one task, "
            "with the same neutral class, on the same utterances."
        )
