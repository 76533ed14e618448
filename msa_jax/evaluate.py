"""From a checkpoint and a split to metrics and a prediction for every utterance."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from msa_jax import config as config_lib
from msa_jax import metrics, processes, sharding, statistics, steps, system
from msa_jax.checkpoints import Checkpoints
from msa_jax.data import buckets, builders, feed, order, store
from msa_jax.data.normalization import Normalization
from msa_jax.data.schema import SPLITS, FeatureSchema
from msa_jax.errors import UserError, nearest
from msa_jax.population import Population
from msa_jax.predictions import PredictionTable
from msa_jax.tasks import Task
from msa_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A split and what a model predicts for it, row by row.

    Attributes:
      task: gives the true classes.
      split: the data.
      predictions: over the whole split, NumPy arrays.
      baselines: what predictors without features learnt from the train split.
    """

    task: Task
    split: store.Split
    predictions: steps.Predictions
    baselines: Mapping[str, Any]

    def metrics(self) -> metrics.Metrics:
        """The task's metrics and the mean `loss` (without class weights)."""
        outputs = np.asarray(self.predictions.outputs)
        loss = float(np.mean(self.predictions.losses, dtype=np.float64))
        return {**metrics.of_outputs(self.task, self.split.scores, outputs), "loss": loss}

    def report(self) -> dict[str, Any]:
        """`n`, `data` (frames, cuts, repairs), `metrics`, their 95 % `intervals` over videos, the
        trivial `baselines`, and the mean weight of each modality where the model weighs them.
        """
        scores, outputs = self.split.scores, np.asarray(self.predictions.outputs)
        of_rows = metrics.by_rows(self.task, scores, outputs)
        intervals = statistics.bootstrap(
            lambda _, rows: of_rows(rows),
            np.asarray(self.split.video_ids),
        )
        weights = {m: float(np.mean(w)) for m, w in self.predictions.weights.items()}
        return {
            "n": len(self.split),
            "data": self.split.summary()["modalities"],
            "metrics": self.metrics(),
            "intervals": intervals,
            "baselines": metrics.of_baselines(self.task, self.baselines, scores),
            **({"weights": weights} if weights else {}),
        }

    def table(self) -> PredictionTable:
        """Predictions beside the truth, in the split's order."""
        return PredictionTable(
            ids=self.split.ids,
            video_ids=self.split.video_ids,
            scores=self.split.scores,
            outputs=np.asarray(self.predictions.outputs),
            weights={m: np.asarray(w) for m, w in self.predictions.weights.items()},
        )


def predict(
    eval_step: steps.EvalStep,
    params: Any,
    batches: feed.Feed,
    plan: order.EvalOrder,
    population: Population,
) -> list[steps.Predictions]:
    """Each member's predictions for every row of a split, in the split's order, as NumPy arrays."""
    done = [eval_step(params, batch) for batch in batches(plan, 0, len(plan))]
    rows = plan.rows
    real = rows >= 0

    def in_order(*parts: Any) -> np.ndarray:
        joined = np.concatenate(parts)
        result = np.empty((int(real.sum()), *joined.shape[1:]), joined.dtype)
        result[rows[real]] = joined[real]
        return result

    members = zip(*map(population.unstack, processes.fetch(done)), strict=True)
    return [jax.tree.map(in_order, *parts) for parts in members]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """A trained model and a split to judge it on.

    Attributes:
      step: of the checkpoint.
      config: of the run.
      system: its task, objective and model.
      params: on the devices of `mesh`.
      mesh: over all devices here. Where training spread parameters, large ones are spread.
      split: the data, normalised as the training data were.
      feed: of the split.
      plan: every row of the split once.
      baselines: what predictors without features learnt from the train split.
    """

    step: int
    config: config_lib.Config
    system: system.System
    params: Any
    mesh: Mesh
    split: store.Split
    feed: feed.Feed
    plan: order.EvalOrder
    baselines: Mapping[str, Any]

    def evaluate(self) -> Evaluation:
        """Predicts every row."""
        alone = Population(1, self.mesh)
        with jax.set_mesh(self.mesh):
            eval_step = steps.jit_eval_step(
                steps.make_eval_step(self.system.model, self.system.objective),
                self.params,
                alone,
            )
            (predictions,) = predict(eval_step, self.params, self.feed, self.plan, alone)
        return Evaluation(
            task=self.system.task,
            split=self.split,
            predictions=predictions,
            baselines=self.baselines,
        )


def restore(
    workdir: str,
    split: str = "test",
    *,
    data_path: str = "",
    data_name: str = "",
    data_dir: str = "",
    split_column: str = "split",
) -> Restored:
    """The best checkpoint of a run and a split to judge it on; the directory alone says how.

    Args:
      workdir: of the run.
      split: train, valid or test.
      data_path, data_name: data to use in place of the run's own, as in `config.data`.
      split_column: of `data_path`.
      data_dir: where prepared datasets live, if not where the run had them. The run's own data are
        found there by name, so that the file they came from is not needed any more.

    Raises:
      UserError: if there is no checkpoint, no such split, or the data do not fit the checkpoint.
    """
    if split not in SPLITS:
        raise UserError(f"--split={split} is not a split. {nearest(split, SPLITS)}")
    if split_column != "split" and not data_path:
        raise UserError(
            f"--split_column={split_column} chooses the splits of --data_path, which is not given."
        )
    run = Workdir(workdir)
    if seeds := run.seeds():
        raise UserError(
            f"{workdir} holds the runs of several seeds: name one, such as "
            f"--workdir={os.path.join(workdir, seeds[0])}."
        )
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        saved = checkpoints.description()
        config = config_lib.resolve(saved["config"])
        schema = FeatureSchema.from_json(saved["schema"])
        data = dataclasses.replace(config.data, dir=data_dir or config.data.dir)
        others = bool(data_path or data_name)
        if others:
            name = data_name or config_lib.SYNTHETIC
            data = dataclasses.replace(data, path=data_path, name=name, split_column=split_column)
            config_lib.check_data(data)
        builder = None if others else builders.open_prepared(schema.fingerprint, data.dir)
        rows = store.load(
            builder or builders.prepare(data), split, config.data.modalities, config.data.max_length
        )
        if not others and rows.fingerprint != schema.fingerprint:
            raise UserError(
                f"{workdir} was trained on {schema.fingerprint}, its data are now "
                f"{rows.fingerprint}. Restore them, or name others with --data_path or --data_name."
            )
        _check_channels(rows, schema)
        fitted = Normalization.from_json(saved["normalization"])
        rows = dataclasses.replace(rows, normalization=fitted)
        described = system.build(config)
        mesh = _mesh(config.mesh)
        with jax.set_mesh(mesh):
            abstract = _abstract_params(described, schema, mesh, config_lib.of_videos(config))
            params = checkpoints.restore_selected(abstract)
    units = rows.units(of_videos=config_lib.of_videos(config))
    grouped = buckets.fit(units, config.data.buckets, of_videos=config_lib.of_videos(config))
    grouped = grouped.reaching(schema.lengths)
    return Restored(
        step=saved["selection"]["members"][0]["selected"]["step"],
        config=config,
        system=described,
        params=params,
        mesh=mesh,
        split=rows,
        feed=feed.build(
            rows, described.task, grouped, sharding.over_data(mesh), how=config.data.feed
        ),
        plan=order.EvalOrder(
            units,
            grouped,
            sharding.evaluation_batch(config.training.eval_batch_size, len(units), mesh),
        ),
        baselines=saved["schema"]["baselines"],
    )


def _mesh(trained_on: config_lib.Mesh) -> Mesh:
    """All devices here, be they others than those of the run.

    What was spread over `model` is spread over `fsdp` here, which takes any number of devices.
    """
    spread = trained_on.fsdp != 1 or trained_on.model != 1
    return sharding.build_mesh(config_lib.Mesh(data=1, fsdp=-1) if spread else config_lib.Mesh())


def _abstract_params(
    described: system.System, schema: FeatureSchema, mesh: Mesh, of_videos: bool
) -> Any:
    batch = system.abstract_batch(schema, 1, of_videos=of_videos)
    shapes = jax.eval_shape(
        lambda key, batch: described.model.init(key, batch, train=False), jax.random.key(0), batch
    )["params"]
    return sharding.abstract(shapes, sharding.of_state(shapes, mesh))


def _check_channels(split: store.Split, schema: FeatureSchema) -> None:
    for modality, expected in schema.channels.items():
        found = split.channels[modality]
        if found != expected:
            raise UserError(
                f"{split.fingerprint}: {modality} has {found} feature channels, the checkpoint was "
                f"trained on {expected} ({schema.fingerprint}). Use features of the same kind."
            )
