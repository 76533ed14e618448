"""What several runs of one system have in common: every metric's mean and spread."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msa_jax import metrics, statistics
from msa_jax.member import Member
from msa_jax.predictions import PredictionTable
from msa_jax.tasks import Task


def of_seeds(members: Mapping[str, Member]) -> dict[str, Any]:
    """What `results.json` holds of several seeds.

    `seeds` says how each went; `splits` gives each metric's `mean`, `std` and `best` over seeds,
    the interval `low` to `high` over seeds and videos, and `seeds_low` to `seeds_high` over seeds
    alone (see `msa_jax.statistics`). A seed that diverged is counted in neither.
    """
    done = [member for member in members.values() if member.results is not None]
    results = [member.results for member in done if member.results is not None]
    first = results[0]
    task = next(iter(done[0].evaluations.values())).task
    shared = ("dataset", "task", "model", "modalities", "context", "parameters")
    return {
        **{name: first[name] for name in (*shared, "selection", "environment")},
        "seconds": max(each["seconds"] for each in results),
        "examples_per_second": sum(each["examples_per_second"] for each in results),
        "seeds": {
            name: {
                "seed": member.config.seed,
                "step": member.selected["step"] if member.selected else None,
                "diverged": member.diverged,
            }
            for name, member in members.items()
        },
        "splits": {
            split: {
                "n": part["n"],
                "data": part["data"],
                "metrics": spread(task, [member.evaluations[split].table() for member in done]),
                "baselines": part["baselines"],
            }
            for split, part in first["splits"].items()
        },
    }


def spread(task: Task, seeds: Sequence[PredictionTable]) -> dict[str, dict[str, float]]:
    """`{metric: {mean, std, best, low, high, seeds_low, seeds_high}}` of one system's seeds."""
    of_rows = [metrics.by_rows(task, seeds[0].scores, each.outputs) for each in seeds]
    intervals = statistics.bootstrap(
        lambda seed, rows: of_rows[seed](rows),
        np.asarray(seeds[0].video_ids),
        num_seeds=len(seeds),
    )
    found = [each.metrics(task) for each in seeds]
    result = {}
    for name, (low, high) in intervals.items():
        values = np.array([each[name] for each in found])
        over_seeds = dataclasses.asdict(statistics.over_seeds(values))
        best = values.min() if name in metrics.LOWER_IS_BETTER else values.max()
        result[name] = {
            "mean": over_seeds["mean"],
            "std": over_seeds["std"],
            "best": float(best),
            "low": low,
            "high": high,
            "seeds_low": over_seeds["low"],
            "seeds_high": over_seeds["high"],
        }
    return result
