"""Training: step, evaluate, select, save; then the results of what was selected.

The loop trains a population: usually one run, else several that differ in their seed or in scalar
fields (see `msa_jax.population`), each of which ends as if it had been trained alone.
"""

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from tqdm import tqdm

from msa_jax import config as config_lib
from msa_jax import (
    environment,
    evaluate,
    metrics,
    optim,
    population,
    sharding,
    steps,
    summary,
    system,
)
from msa_jax import member as member_lib
from msa_jax import state as state_lib
from msa_jax.checkpoints import Checkpoints
from msa_jax.config import Config
from msa_jax.data import builders, dataset, feed, order
from msa_jax.errors import DivergedError, UserError
from msa_jax.member import Member
from msa_jax.report import table
from msa_jax.workdir import Workdir


def train_and_evaluate(config: Any, workdir: str) -> dict[str, Any]:
    """Trains what `config` describes, or goes on with it, and evaluates what validation selected.

    Args:
      config: an `ml_collections.ConfigDict` from `configs/`, or any mapping of the same fields.
      workdir: directory for all files of the run. One that holds an unfinished run is resumed, to
        the same bits as if it had never stopped; a finished one is only reported. With
        `config.num_seeds` above 1, each seed ends as a run of its own in `seed_<seed>` therein.

    Returns:
      What `results.json` holds: of a lone run its own results, of several seeds their summary.

    Raises:
      UserError: if the config, the data or the directory do not fit.
      DivergedError: if the loss (of every seed) becomes infinite or NaN. Where some seeds diverge,
        they have no results, and the summary names them.
    """
    resolved = config_lib.resolve(config)
    system.build(resolved)  # refuses a bad model before any file is written
    run = Workdir(workdir)
    run.check(resolved)
    finished = run.results()
    if finished:
        if "dataset" not in finished:
            raise UserError(f"{run.path} holds a sweep: use another --workdir.")
        path = resolved.data.path
        if not path or epath.Path(path).exists():  # to be told of, a run needs no data any more
            _check_data(run, finished["dataset"]["fingerprint"], builders.identify(resolved.data))
        print(f"{run.path} is finished (remove it to train again).\n{table.results(finished)}")
        return finished
    members = {"": resolved} if resolved.num_seeds == 1 else population.of_seeds(resolved)
    trained = train_together(members, run, resolved)
    results = summary.of_seeds(trained) if "" not in trained else trained[""].results
    assert results is not None
    print(table.results(results))
    results = run.write_results(results)
    if "" not in trained:  # the members' own checkpoints take its place
        run.checkpoints.rmtree(missing_ok=True)
    return results


def train_together(configs: Mapping[str, Config], run: Workdir, whole: Config) -> dict[str, Member]:
    """Trains all of `configs` in one program, or goes on with it.

    Args:
      configs: by name of the subdirectory of `run` that will hold the run; the name "" is `run`
        itself. They differ in nothing but `population.varied`.
      run: the directory of all of them.
      whole: the config that describes them all; its data, mesh and training are used.

    Returns:
      The members, each with its results, whose files are written; but of a lone run `results.json`,
      which marks the end, is left to the caller.

    Raises:
      UserError: if config, data and directory do not fit.
      DivergedError: if the loss of every member becomes infinite or NaN.
    """
    mesh = sharding.build_mesh(whole.mesh, len(configs))
    training = whole.training
    sharding.check_batch_size("batch_size", training.batch_size, mesh, training.accumulate)
    sharding.check_batch_size("eval_batch_size", training.eval_batch_size, mesh)
    members = {name: Member(config, run.member(name)) for name, config in configs.items()}
    for member in members.values():
        member.run.check(member.config)
    values = population.varied(list(configs.values()))
    data = dataset.load(whole.data, of_videos=config_lib.of_videos(whole))
    system.check_aligned(whole, data.splits["train"].lengths)
    with jax.set_mesh(mesh):
        shared = population.Population(len(configs), mesh)
        _Training(whole, run, list(members.values()), values, data, shared).train()
    return members


class _Training:
    """Of a population, from its first step or its latest checkpoint to its members' results."""

    def __init__(
        self,
        config: Config,
        run: Workdir,
        members: Sequence[Member],
        values: Mapping[str, np.ndarray],
        data: dataset.Dataset,
        shared: population.Population,
    ) -> None:
        self._whole, self._config = config, members[0].config
        self._run, self._members = run, members
        self._values = {name: jnp.asarray(each) for name, each in values.items()}
        self._data, self._population = data, shared
        train = data.splits["train"]
        self._system = system.build(self._config, train.scores)
        orders = [
            order.TrainOrder(
                data.units["train"],
                data.buckets["train"],
                config.training.batch_size,
                member.config.seed,
            )
            for member in members
        ]
        self._order = order.SideBySide(orders) if len(orders) > 1 else orders[0]
        per_epoch = orders[0].steps_per_epoch
        self._utterances_a_step = len(train) / per_epoch
        self._interval = max(1, per_epoch // config.training.evaluations_per_epoch)
        self._last_step = config.training.epochs * per_epoch
        self._optimizer = self._build_optimizer(self._config)
        self._feeds: dict[tuple[str, bool], feed.Feed] = {}
        self._baselines = metrics.fit_baselines(self._system.task, train.scores)
        self._described = {
            "normalization": data.normalization.to_json(),
            "schema": {**data.schema.to_json(), "baselines": self._baselines},
        }

    def train(self) -> None:
        """The loop."""
        # What a fresh start may refuse, it refuses before a directory is made.
        fresh = None if self._run.checkpoints.exists() else self._fresh_state()
        with Checkpoints(self._run.checkpoints) as checkpoints:
            state = fresh or self._last_state(checkpoints)
            step = checkpoints.step or 0
            self._run.record(self._whole)
            for member in self._members:
                member.run.record(member.config)
                member.history = member.run.history(step)
            seconds = max(m.history[-1]["seconds"] if m.history else 0.0 for m in self._members)
            start = time.perf_counter() - seconds
            train_step = steps.jit_train_step(
                self._member_step, state, self._values, self._population
            )
            eval_step = steps.jit_eval_step(
                steps.make_eval_step(self._system.model, self._system.objective),
                state.params,
                self._population,
            )
            batches = self._feed("train", own=True)(self._order, step, self._last_step)
            writers = [self._summary_writer(member) for member in self._members]
            with tqdm(total=self._last_step, initial=step, unit="step", disable=None) as progress:
                while step < self._last_step and not self._all_done(step):
                    began, done = time.perf_counter(), []
                    for batch in itertools.islice(batches, self._interval):
                        state, step_metrics = train_step(state, batch)
                        done.append(step_metrics)
                        progress.update()
                    trained = self._averages(done)
                    elapsed = time.perf_counter() - began
                    evaluated = self._evaluate("valid", eval_step, state.params)
                    rate = len(done) * self._utterances_a_step / elapsed
                    better = []
                    for k, member in enumerate(self._members):
                        entry = {
                            "step": step + len(done),
                            "seconds": time.perf_counter() - start,
                            "examples_per_second": rate,
                            **{f"train_{name}": value for name, value in trained[k].items()},
                            **{
                                f"valid_{name}": value
                                for name, value in evaluated[k].metrics().items()
                            },
                        }
                        went_on = not member.is_done(step, self._interval)
                        better.append(went_on and member.record(entry))
                        if went_on and member.diverged is None:
                            member.run.write_history(member.history)
                            values = {k: v for k, v in entry.items() if k != "step"}
                            writers[k].write_scalars(entry["step"], values)
                    step += len(done)
                    self._check_any_left()
                    if any(better):
                        state = state_lib.select(state, self._population.stack(better))
                    progress.set_postfix(self._postfix())
                    description = member_lib.description(
                        self._whole, self._members, self._described
                    )
                    checkpoints.save(step, state, description)
            for writer in writers:
                writer.close()
            checkpoints.wait()
            self._finish(eval_step, state.selected)

    def _member_step(self, values: Mapping[str, jax.Array]) -> steps.TrainStep:
        """The step of a member with `values` in place of the config's, which may be traced."""
        config = config_lib.with_values(self._config, values)
        described = system.build(config, self._data.splits["train"].scores)
        return steps.make_train_step(
            described.model,
            self._build_optimizer(config),
            described.objective,
            config.training.accumulate,
            config.augment,
        )

    def _build_optimizer(self, config: Config) -> Any:
        return optim.build(
            config.optimizer,
            self._last_step,
            frozen=system.frozen_parameters(config),
            independent=system.independent_parameters(config),
        )

    def _last_state(self, checkpoints: Checkpoints) -> state_lib.TrainState:
        if checkpoints.step is None:
            return self._fresh_state()
        recorded = checkpoints.description()
        self._run.check(self._whole, recorded["config"])
        _check_data(self._run, recorded["schema"]["fingerprint"], self._data.schema.fingerprint)
        for member, progress in zip(self._members, recorded["selection"]["members"], strict=True):
            member.selected, member.diverged = progress["selected"], progress["diverged"]
        abstract = state_lib.abstract(
            self._system.model, self._optimizer, self._abstract_batch(), self._population
        )
        return checkpoints.restore_state(abstract)

    def _fresh_state(self) -> state_lib.TrainState:
        state = state_lib.create(
            self._system.model,
            self._optimizer,
            self._abstract_batch(),
            [member.config.seed for member in self._members],
            self._population,
        )
        if not self._config.init.encoders:
            return state
        started = [
            system.with_pretrained_encoders(
                jax.device_put(params, None if self._population.size == 1 else jax.devices()[0]),
                member.config,
                self._data.normalization,
            )
            for params, member in zip(
                self._population.unstack(state.params), self._members, strict=True
            )
        ]
        places = jax.tree.map(lambda leaf: leaf.sharding, state.params)
        params = jax.device_put(self._population.stack(started), places)
        return dataclasses.replace(state, params=params, selected=jax.tree.map(jnp.copy, params))

    def _abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        return system.abstract_batch(
            self._data.schema,
            self._config.training.batch_size,
            of_videos=config_lib.of_videos(self._config),
        )

    def _feed(self, split: str, own: bool = False) -> feed.Feed:
        """How batches of a split reach the devices: each member its own, or all the same."""
        if (split, own) not in self._feeds:
            place = sharding.over_data(self._population.mesh)
            self._feeds[split, own] = feed.build(
                self._data.splits[split],
                self._system.task,
                self._data.buckets[split],
                self._population.places(place) if own else place,
                how=self._config.data.feed,
            )
        return self._feeds[split, own]

    def _averages(self, done: Sequence[Any]) -> list[dict[str, float]]:
        """Each member's metrics of the training steps `done`, averaged."""
        members = zip(*map(self._population.unstack, jax.device_get(done)), strict=True)
        return [
            {name: float(np.mean([step[name] for step in each])) for name in each[0]}
            for each in members
        ]

    def _evaluate(
        self, split: str, eval_step: steps.EvalStep, params: Any
    ) -> list[evaluate.Evaluation]:
        rows = self._data.splits[split]
        units = self._data.units[split]
        size = sharding.evaluation_batch(
            self._config.training.eval_batch_size, len(units), self._population.mesh
        )
        batches = order.EvalOrder(units, self._data.buckets[split], size)
        predictions = evaluate.predict(
            eval_step, params, self._feed(split), batches, self._population
        )
        return [
            evaluate.Evaluation(
                task=self._system.task, split=rows, predictions=each, baselines=self._baselines
            )
            for each in predictions
        ]

    def _all_done(self, step: int) -> bool:
        return all(member.is_done(step, self._interval) for member in self._members)

    def _check_any_left(self) -> None:
        steps_diverged = [member.diverged for member in self._members]
        if all(step is not None for step in steps_diverged):
            raise DivergedError(
                f"the loss is not a finite number at step {steps_diverged[0]}. "
                "Lower config.optimizer.learning_rate or set config.optimizer.clip_norm; the last "
                f"good checkpoint stays in {self._run.checkpoints}."
            )

    def _postfix(self) -> dict[str, str]:
        """What the progress bar tells: means over the members."""
        name = self._config.training.selection
        last = [member.history[-1] for member in self._members if member.history]
        loss = np.mean([entry["train_loss"] for entry in last])
        valid = np.mean([entry[f"valid_{name}"] for entry in last])
        return {"loss": f"{loss:.3f}", "valid": f"{valid:.3f} {name}"}

    def _finish(self, eval_step: steps.EvalStep, selected: Any) -> None:
        """Judges what was selected and writes the members' files."""
        splits = [split for split in self._data.splits if split != "train"]
        evaluated = {split: self._evaluate(split, eval_step, selected) for split in splits}
        size = sum(leaf.size for leaf in jax.tree.leaves(selected))
        parameters = size // self._population.size
        for k, params in enumerate(self._population.unstack(selected)):
            member = self._members[k]
            if member.diverged is not None:
                continue
            member.finish(
                {split: each[k] for split, each in evaluated.items()},
                {
                    "dataset": self._data.summary,
                    "parameters": parameters,
                    "environment": environment.describe(),
                },
            )
            if self._population.size > 1:
                member.write_alone(params, self._described)

    def _summary_writer(self, member: Member) -> Any:
        from clu import metric_writers  # imports TensorBoard: late, and only to train

        if jax.process_index():
            return metric_writers.MultiWriter([])
        return metric_writers.SummaryWriter(str(member.run.path))


def _check_data(run: Workdir, recorded: str, now: str) -> None:
    if recorded != now:
        raise UserError(
            f"{run.path} was trained on {recorded}, config.data now gives {now}. "
            "Give the same data to go on with it, or another --workdir."
        )
