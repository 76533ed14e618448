"""How far a trained model falls when its input is incomplete or noisy, and whether it falls below
a predictor that sees nothing.

One checkpoint, selected on complete validation data, gives all figures; see
`msa_jax.conditions` for what is taken away.

Shape legend: N utterances, B batch, M modalities, K outputs, P patterns, S mask seeds.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from msa_jax import conditions, metrics, sharding, steps
from msa_jax.conditions import Condition, Pattern
from msa_jax.errors import UserError
from msa_jax.evaluate import Restored
from msa_jax.tasks import Task

MASK_SEEDS = (0, 1, 2)

_AT_ONCE = 16  # patterns on an accelerator


def over_patterns(
    function: Callable[[Pattern], jax.Array], patterns: Pattern, mesh: Mesh
) -> jax.Array:
    """`function` of each of `patterns`, whose leaves have a leading axis [P]; so has the result.

    On a CPU one after the other, since a product of matrices gains nothing there from being
    batched; else some at once.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return jax.lax.map(function, patterns, batch_size=None if on_cpu else _AT_ONCE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A run under every condition.

    Attributes:
      workdir: of the run.
      step: of the checkpoint.
      fingerprint: of the data.
      split: its name.
      task: what is predicted.
      modalities: of the model.
      scores: [N] true scores.
      baselines: metrics of the predictors that see no features, on the same split.
      metrics: of each condition, an entry a mask seed; a single one where nothing is drawn.
    """

    workdir: str
    step: int
    fingerprint: str
    split: str
    task: Task
    modalities: tuple[str, ...]
    scores: np.ndarray
    baselines: Mapping[str, metrics.Metrics]
    metrics: Mapping[Condition, Sequence[metrics.Metrics]]


def predict(
    restored: Restored,
    asked: Iterable[tuple[Condition, int]],
    mask_seeds: Sequence[int] = MASK_SEEDS,
) -> np.ndarray:
    """Outputs [P, N, K] under each (condition, number of the mask seed), in the split's order.

    One pass over the split: a batch is read once and its random numbers are drawn once, and one
    program takes it through all patterns.
    """
    mesh, plan, modalities = restored.mesh, restored.plan, tuple(restored.config.data.modalities)
    eval_step = steps.make_eval_step(restored.system.model, restored.system.objective)
    patterns = jax.tree.map(
        lambda *leaves: np.stack(leaves),
        *(conditions.pattern(c, modalities, d) for c, d in asked),
    )

    def outputs(params: Any, patterns: Pattern, seeds: Any, batch: Any, rows: Any) -> jax.Array:
        shapes = {m: batch[m].shape for m in modalities}
        drawn = jax.vmap(lambda seed: conditions.draw(seed, rows, shapes))(seeds)

        def one(pattern: Pattern) -> jax.Array:
            luck = jax.tree.map(lambda leaf: leaf[pattern.draw], drawn)
            corrupted = conditions.corrupt(batch, luck, pattern, modalities)
            return eval_step(params, jax.tree.map(sharding.keep_rows, corrupted)).outputs

        return over_patterns(one, patterns, mesh)

    rows_place, everywhere = sharding.over_data(mesh), sharding.replicated(mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, restored.params)
    program = jax.jit(
        outputs,
        in_shardings=(places, everywhere, everywhere, rows_place, rows_place),
        out_shardings=everywhere,
    )
    seeds = np.asarray(mask_seeds, np.uint32)
    with jax.set_mesh(mesh):
        done = [
            program(restored.params, patterns, seeds, batch, plan(index).rows.astype(np.int32))
            for index, batch in enumerate(restored.feed(plan, 0, len(plan)))
        ]
    joined = np.concatenate(jax.device_get(done), axis=1)
    rows = plan.rows
    result = np.empty((len(joined), len(restored.split), joined.shape[-1]), joined.dtype)
    result[:, rows[rows >= 0]] = joined[:, rows >= 0]
    return result


def measure(workdir: str, restored: Restored, mask_seeds: Sequence[int] = MASK_SEEDS) -> Measured:
    """The metrics of a run under every condition of `subsets` and `curves`."""
    modalities, task = tuple(restored.config.data.modalities), restored.system.task
    wanted = [
        *conditions.subsets(modalities).values(),
        *(c for curve in conditions.curves(modalities).values() for c in curve.conditions.values()),
    ]
    draws = {c: range(len(mask_seeds) if c.random else 1) for c in dict.fromkeys(wanted)}
    asked = [(condition, number) for condition, each in draws.items() for number in each]
    scores = restored.split.scores
    found: dict[Condition, list[metrics.Metrics]] = {condition: [] for condition in draws}
    for (condition, _), outputs in zip(asked, predict(restored, asked, mask_seeds), strict=True):
        found[condition].append(metrics.of_outputs(task, scores, outputs))
    return Measured(
        workdir=workdir,
        step=restored.step,
        fingerprint=restored.split.fingerprint,
        split=restored.split.name,
        task=task,
        modalities=modalities,
        scores=scores,
        baselines=metrics.of_baselines(task, restored.baselines, scores),
        metrics=found,
    )


def report(models: Mapping[str, Sequence[Measured]], mask_seeds: Sequence[int]) -> dict[str, Any]:
    """What `robustness.json` holds.

    Args:
      models: by name, the runs of each, which differ in their seed.
      mask_seeds: that were drawn.

    Returns:
      `task`, `split`, `n`, `mask_seeds`, `constant` (the best predictor that sees nothing: what no
      point should fall below), `baselines` and `models`. Of a model: `runs`, `modalities`,
      `subsets` and `curves`, whose points hold `metrics`, `std_masks` (over mask seeds, averaged
      over runs) and `std_runs`; of a curve over rates also the `area` under it, by the trapezoid
      rule and divided by its width (noise has no last level, so no area); and `below_constant`, the
      points at which any run falls below, with the mean over runs and how many do.

    Raises:
      UserError: if the runs were not judged on the same utterances and task.
    """
    every = [run for group in models.values() for run in group]
    first = every[0]
    for run in every:
        if run.task != first.task or not np.array_equal(run.scores, first.scores):
            raise UserError(
                f"{first.workdir} ({first.task.kind} of {len(first.scores)} utterances of "
                f"{first.fingerprint}) and {run.workdir} ({run.task.kind} of {len(run.scores)} of "
                f"{run.fingerprint}) cannot stand side by side: give runs of one task and data set."
            )
    return {
        "task": dataclasses.asdict(first.task),
        "split": first.split,
        "n": len(first.scores),
        "mask_seeds": list(mask_seeds),
        "constant": _constant(first),
        "baselines": first.baselines,
        "models": {name: _of_model(group) for name, group in models.items()},
    }


def _of_model(group: Sequence[Measured]) -> dict[str, Any]:
    modalities, constant = group[0].modalities, _constant(group[0])
    fallen: list[dict[str, Any]] = []

    def point(place: str, where: Mapping[str, Any], condition: Condition) -> dict[str, Any]:
        drawn = [run.metrics[condition] for run in group]  # of each run, of each mask seed
        each = [_over(np.mean, of_run) for of_run in drawn]
        means = _over(np.mean, each)
        for name, bound in constant.items():
            below = sum(_is_worse(name, of_run[name], bound) for of_run in each)
            if below:
                fallen.append(
                    {"place": place, **where, "metric": name, "value": means[name]}
                    | {"constant": bound, "runs_below": below, "runs": len(group)}
                )
        return {
            **where,
            "metrics": means,
            "std_masks": _over(np.mean, [_over(_deviation, of_run) for of_run in drawn]),
            "std_runs": _over(_deviation, each),
        }

    subset_points = [
        point("subsets", {"modalities": list(kept)}, condition)
        for kept, condition in conditions.subsets(modalities).items()
    ]
    curve_parts: dict[str, dict[str, Any]] = {}
    for name, curve in conditions.curves(modalities).items():
        points = [point(name, {"level": x}, c) for x, c in curve.conditions.items()]
        curve_parts[name] = {"title": curve.title, "axis": curve.axis, "points": points}
        if curve.is_rate:
            curve_parts[name]["area"] = _area(points)
    return {
        "runs": [{"workdir": r.workdir, "step": r.step, "data": r.fingerprint} for r in group],
        "modalities": list(modalities),
        "subsets": subset_points,
        "curves": curve_parts,
        "below_constant": fallen,
    }


def _constant(run: Measured) -> dict[str, float]:
    """What a predictor that sees nothing reaches, by the task's main metrics."""
    if run.task.is_regression:
        return {name: run.baselines["best_constant"][name] for name in ("mae", "acc2_has0")}
    return {"accuracy": run.baselines["majority"]["accuracy"]}


def _is_worse(name: str, value: float, bound: float) -> bool:
    # A model that predicts the constant itself reaches it up to the rounding of a mean.
    return abs(value - bound) > 1e-6 and metrics.is_better(name, bound, value)


def _area(points: Sequence[Mapping[str, Any]]) -> metrics.Metrics:
    levels = [point["level"] for point in points]
    return {
        name: float(np.trapezoid([p["metrics"][name] for p in points], levels))
        / (levels[-1] - levels[0])
        for name in points[0]["metrics"]
    }


def _over(statistic: Callable[..., Any], rows: Sequence[metrics.Metrics]) -> metrics.Metrics:
    return {name: float(statistic([row[name] for row in rows])) for name in rows[0]}


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; 0 of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
