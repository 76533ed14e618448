"""Training: evaluate, save, next batches, step; then the best checkpoint's results."""

import dataclasses
import itertools
import math
import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from msa_jax import config as config_lib
from msa_jax import evaluate, metrics, optim, sharding, steps, system
from msa_jax import state as state_lib
from msa_jax.checkpoints import Checkpoints
from msa_jax.data import builders, dataset, feed, order
from msa_jax.errors import UserError
from msa_jax.report import curves, table
from msa_jax.workdir import Workdir, write_bytes


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


def train_and_evaluate(config: Any, workdir: str) -> dict[str, Any]:
    """Trains what `config` describes, or goes on with it, and evaluates the best checkpoint.

    Args:
      config: an `ml_collections.ConfigDict` from `configs/`, or any mapping of the same fields.
      workdir: directory for all files of the run. One that holds an unfinished run is resumed, to
        the same bits as if it had never stopped; a finished one is only reported.

    Returns:
      What `results.json` holds.

    Raises:
      UserError: if the config, the data or the directory do not fit.
      DivergedError: if the loss becomes infinite or NaN.
    """
    resolved = config_lib.resolve(config)
    system.build(resolved)  # refuses a bad model before any file is written
    run = Workdir(workdir)
    run.check(resolved)
    finished = run.results()
    if finished:
        _check_data(run, finished["dataset"]["fingerprint"], builders.identify(resolved.data))
        print(f"{run.path} is finished (remove it to train again).\n{table.results(finished)}")
        return finished
    mesh = sharding.build_mesh(resolved.mesh)
    training = resolved.training
    sharding.check_batch_size("batch_size", training.batch_size, mesh, training.accumulate)
    sharding.check_batch_size("eval_batch_size", training.eval_batch_size, mesh)
    data = dataset.load(resolved.data)
    with jax.set_mesh(mesh):
        return _Run(resolved, run, data, mesh).train()


class _Run:
    """One run, from its first step or its latest checkpoint to its results."""

    def __init__(
        self,
        config: config_lib.Config,
        run: Workdir,
        data: dataset.Dataset,
        mesh: jax.sharding.Mesh,
    ) -> None:
        self._config, self._run, self._data, self._mesh = config, run, data, mesh
        train = data.splits["train"]
        self._system = system.build(config, train.scores)
        self._order = order.TrainOrder(
            dataset.assign(train, data.buckets["train"]), config.training.batch_size, config.seed
        )
        per_epoch = self._order.steps_per_epoch
        self._interval = max(1, per_epoch // config.training.evaluations_per_epoch)
        self._last_step = config.training.epochs * per_epoch
        self._optimizer = optim.build(
            config.optimizer,
            self._last_step,
            frozen=system.frozen_parameters(config),
            independent=system.independent_parameters(config),
        )
        self._feeds: dict[str, feed.Feed] = {}
        self._baselines = metrics.fit_baselines(self._system.task, train.scores)
        self._description = {
            "config": config_lib.to_dict(config),
            "normalization": data.normalization.to_json(),
            "schema": {**data.schema.to_json(), "baselines": self._baselines},
        }

    def train(self) -> dict[str, Any]:
        """The loop."""
        selection = self._config.training.selection
        # What a fresh start may refuse, it refuses before a directory is made.
        fresh = None if self._run.checkpoints.exists() else self._fresh_state()
        with Checkpoints(self._run.checkpoints, selection=selection) as checkpoints:
            state = fresh or self._last_state(checkpoints)
            self._run.record(self._config)
            step = int(state.step)
            history = self._run.history(step)
            seconds = history[-1]["seconds"] if history else 0.0
            start = time.perf_counter() - seconds
            train_step = steps.jit_train_step(
                steps.make_train_step(
                    self._system.model,
                    self._optimizer,
                    self._system.objective,
                    self._config.training.accumulate,
                    self._config.augment,
                ),
                state,
                self._mesh,
            )
            eval_step = steps.jit_eval_step(
                steps.make_eval_step(self._system.model, self._system.objective),
                state.params,
                self._mesh,
            )
            batches = self._feed("train")(self._order, step, self._last_step)
            writer = self._summary_writer()
            with tqdm(total=self._last_step, initial=step, unit="step", disable=None) as progress:
                while step < self._last_step and not self._out_of_patience(checkpoints):
                    began, done = time.perf_counter(), []
                    for batch in itertools.islice(batches, self._interval):
                        state, step_metrics = train_step(state, batch)
                        done.append(step_metrics)
                        progress.update()
                    trained = {
                        name: float(np.mean([m[name] for m in jax.device_get(done)]))
                        for name in done[0]
                    }
                    elapsed = time.perf_counter() - began
                    step += len(done)
                    self._check_finite(trained["loss"], step)
                    valid = self._evaluate("valid", eval_step, state.params, step).metrics()
                    self._check_finite(valid["loss"], step)
                    rate = len(done) * self._config.training.batch_size / elapsed
                    history.append(
                        {
                            "step": step,
                            "seconds": time.perf_counter() - start,
                            "examples_per_second": rate,
                            **{f"train_{name}": value for name, value in trained.items()},
                            **{f"valid_{name}": value for name, value in valid.items()},
                        }
                    )
                    self._run.write_history(history)
                    writer.write_scalars(
                        step, {k: v for k, v in history[-1].items() if k != "step"}
                    )
                    progress.set_postfix(
                        loss=f"{trained['loss']:.3f}", valid=f"{valid[selection]:.3f} {selection}"
                    )
                    checkpoints.save(step, state, self._description, valid)
            writer.close()
            checkpoints.wait()
            best = checkpoints.best_step
            params = checkpoints.restore_params(best, sharding.abstract(state.params))
            results = self._results(best, eval_step, params, history)
        write_bytes(self._run.path / "curves.png", curves.png(history, self._system.task))
        print(table.results(results))
        return self._run.write_results(results)

    def _last_state(self, checkpoints: Checkpoints) -> state_lib.TrainState:
        latest = checkpoints.latest_step
        if latest is None:
            return self._fresh_state()
        recorded = checkpoints.description(latest)
        self._run.check(self._config, recorded["config"])
        _check_data(self._run, recorded["schema"]["fingerprint"], self._data.schema.fingerprint)
        abstract = state_lib.abstract(
            self._system.model, self._optimizer, self._abstract_batch(), self._mesh
        )
        return checkpoints.restore_state(latest, abstract)

    def _fresh_state(self) -> state_lib.TrainState:
        state = state_lib.create(
            self._system.model,
            self._optimizer,
            self._abstract_batch(),
            self._config.seed,
            self._mesh,
        )
        if not self._config.init.encoders:
            return state
        params = system.with_pretrained_encoders(
            state.params, self._config, self._data.normalization
        )
        return dataclasses.replace(state, params=params)

    def _abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        return system.abstract_batch(self._data.schema, self._config.training.batch_size)

    def _feed(self, split: str) -> feed.Feed:
        """How batches of a split reach the devices; made once."""
        if split not in self._feeds:
            self._feeds[split] = feed.build(
                self._data.splits[split],
                self._system.task,
                self._data.buckets[split],
                sharding.over_data(self._mesh),
                how=self._config.data.feed,
            )
        return self._feeds[split]

    def _evaluate(
        self, split: str, eval_step: steps.EvalStep, params: Any, step: int
    ) -> evaluate.Evaluation:
        rows = self._data.splits[split]
        batches = order.EvalOrder(
            dataset.assign(rows, self._data.buckets[split]), self._config.training.eval_batch_size
        )
        return evaluate.Evaluation(
            step=step,
            task=self._system.task,
            split=rows,
            predictions=evaluate.predict(eval_step, params, self._feed(split), batches),
            baselines=self._baselines,
        )

    def _out_of_patience(self, checkpoints: Checkpoints) -> bool:
        """Whether the last `patience` evaluations brought nothing; known from checkpoints alone."""
        patience, latest = self._config.training.patience, checkpoints.latest_step
        if not patience or latest is None:
            return False
        return latest - checkpoints.best_step >= patience * self._interval

    def _check_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at step {step}. "
                "Lower config.optimizer.learning_rate or set config.optimizer.clip_norm; the last "
                f"good checkpoint stays in {self._run.checkpoints}."
            )

    def _results(
        self,
        best: int,
        eval_step: steps.EvalStep,
        params: Any,
        history: list[dict[str, Any]],
    ) -> dict[str, Any]:
        task = self._system.task
        return {
            "dataset": self._data.summary,
            "task": {
                "kind": task.kind,
                "neutral": task.neutral,
                "classes": list(task.class_names),
            },
            "model": self._config.model["name"],
            "modalities": list(self._config.data.modalities),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "selection": f"valid {self._config.training.selection}",
            "step": best,
            "seconds": history[-1]["seconds"] if history else math.nan,
            "examples_per_second": float(
                np.median([entry["examples_per_second"] for entry in history] or [math.nan])
            ),
            "splits": {
                split: self._evaluate(split, eval_step, params, best).report()
                for split in self._data.splits
                if split != "train"
            },
        }

    def _summary_writer(self) -> Any:
        from clu import metric_writers  # imports TensorBoard: late, and only to train

        if jax.process_index():
            return metric_writers.MultiWriter([])
        return metric_writers.SummaryWriter(str(self._run.path))


def _check_data(run: Workdir, recorded: str, now: str) -> None:
    if recorded != now:
        raise UserError(
            f"{run.path} was trained on {recorded}, config.data now gives {now}. "
            "Give the same data to go on with it, or another --workdir."
        )
