"""Training: step, evaluate, select, save; then the results of what was selected.

The loop trains a population: usually one run, else several that differ in their seed or in scalar
fields (see `msa_jax.population`), each of which ends as if it had been trained alone.
"""

import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from msa_jax import config as config_lib
from msa_jax import (
    cpu,
    environment,
    evaluate,
    loops,
    metrics,
    population,
    processes,
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
from msa_jax.errors import DivergedError, PreemptedError, UserError
from msa_jax.interval import Interval
from msa_jax.member import Member
from msa_jax.report import table
from msa_jax.workdir import Workdir


def train_and_evaluate(
    config: Any, workdir: str, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Trains what `config` describes, or goes on with it, and evaluates what validation selected.

    Args:
      config: an `ml_collections.ConfigDict` from `configs/`, or any mapping of the same fields.
      workdir: directory for all files of the run. One that holds an unfinished run is resumed, to
        the same bits as if it had never stopped; a finished one is only reported. With
        `config.num_seeds` above 1, each seed ends as a run of its own in `seed_<seed>` therein.
      stop: asked before each loop of steps whether to save and end here; see
        `processes.StopNotice`.

    Returns:
      What `results.json` holds: of a lone run its own results, of several seeds their summary.

    Raises:
      UserError: if the config, the data or the directory do not fit.
      DivergedError: if the loss (of every seed) becomes infinite or NaN. Where some seeds diverge,
        they have no results, and the summary names them.
      PreemptedError: if `stop` has ended it.
    """
    resolved = config_lib.resolve(config)
    system.build(resolved)  # refuses a bad model before any file is written
    run = Workdir(workdir, writes=processes.is_first())
    processes.agree("the work directory", str(run.path))
    processes.agree("the config's digest", config_lib.digest(resolved))
    run.check(resolved)
    finished = run.results()
    processes.agree(f"{run.path}", "finished" if finished else "unfinished")
    if finished:
        if "dataset" not in finished:
            raise UserError(f"{run.path} holds a sweep: use another --workdir.")
        now = builders.identify_at_hand(resolved.data)  # to be told of, a run needs no data
        if now is not None:
            _check_data(run, finished["dataset"]["fingerprint"], now)
        processes.tell(
            f"{run.path} is finished (remove it to train again).\n{table.results(finished)}"
        )
        return finished
    members = {"": resolved} if resolved.num_seeds == 1 else population.of_seeds(resolved)
    trained = train_together(members, run, resolved, stop)
    results = summary.of_seeds(trained) if "" not in trained else trained[""].results
    assert results is not None
    processes.tell(table.results(results))
    results = run.write_results(results)
    if "" not in trained:  # the members' own checkpoints take its place
        run.remove_checkpoints()
    return results


def train_together(
    configs: Mapping[str, Config],
    run: Workdir,
    whole: Config,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Member]:
    """Trains all of `configs` in one program, or goes on with it.

    On a CPU the process keeps its memory from then on; see `cpu.keep_memory`.

    Args:
      configs: by name of the subdirectory of `run` that will hold the run; the name "" is `run`
        itself. They differ in nothing but `population.varied`.
      run: the directory of all of them.
      whole: the config that describes them all; its data, mesh and training are used.
      stop: asked before each loop of steps whether to save and end here.

    Returns:
      The members, each with its results, whose files are written; but of a lone run `results.json`,
      which marks the end, is left to the caller.

    Raises:
      UserError: if config, data and directory do not fit.
      DivergedError: if the loss of every member becomes infinite or NaN.
      PreemptedError: if `stop` has ended it.
    """
    mesh = sharding.build_mesh(whole.mesh, len(configs))
    training = whole.training
    sharding.check_batch_size("batch_size", training.batch_size, mesh, training.accumulate)
    sharding.check_batch_size("eval_batch_size", training.eval_batch_size, mesh)
    members = {name: Member(config, run.member(name)) for name, config in configs.items()}
    for member in members.values():
        member.run.check(member.config)
    values = population.varied(list(configs.values()))
    fresh = not run.checkpoints.exists()  # asked before any process may make it
    processes.agree(str(run.checkpoints), "absent" if fresh else "there")
    of_videos = config_lib.of_videos(whole)
    data = processes.in_turn(lambda: dataset.load(whole.data, of_videos=of_videos))
    read = {name: zlib.crc32(split.scores.tobytes()) for name, split in data.splits.items()}
    processes.agree("what config.data gives", f"{data.schema.fingerprint} {read}")
    system.check_aligned(whole, data.splits["train"].lengths)
    cpu.keep_memory(mesh)  # from here on: what was needed to read the data has gone back
    with jax.set_mesh(mesh):
        shared = population.Population(len(configs), mesh)
        _Training(whole, run, members, values, data, shared).train(fresh, stop)
    return members


class _Training:
    """Of a population, from its first step or its latest checkpoint to its members' results."""

    def __init__(
        self,
        config: Config,
        run: Workdir,
        members: Mapping[str, Member],
        values: Mapping[str, np.ndarray],
        data: dataset.Dataset,
        shared: population.Population,
    ) -> None:
        self._named, self._members = members, list(members.values())
        self._whole, self._config = config, self._members[0].config
        self._run = run
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
            for member in self._members
        ]
        self._order = order.SideBySide(orders) if len(orders) > 1 else orders[0]
        per_epoch = orders[0].steps_per_epoch
        self._utterances_a_step = len(train) / per_epoch
        self._interval = max(1, per_epoch // config.training.evaluations_per_epoch)
        self._last_step = config.training.epochs * per_epoch
        self._optimizer = system.optimizer(self._config, self._last_step)
        self._feeds: dict[tuple[str, bool], feed.Feed] = {}
        self._unfinished = Interval()  # of an interrupted run
        self._baselines = metrics.fit_baselines(self._system.task, train.scores)
        self._described = {
            "normalization": data.normalization.to_json(),
            "schema": {**data.schema.to_json(), "baselines": self._baselines},
        }

    def train(self, is_fresh: bool, stop: Callable[[], bool]) -> None:
        """The loop."""
        # What a fresh start may refuse, it refuses before a directory is made.
        fresh = self._fresh_state() if is_fresh else None
        with Checkpoints(self._run.checkpoints) as checkpoints:
            state = fresh or self._last_state(checkpoints)
            done, step = list(self._unfinished.loops), checkpoints.step or 0
            processes.agree("the last step that was saved", str(step))
            evaluated_at = step - len(self._unfinished)
            self._run.record(self._whole)
            for member in self._members:
                member.run.record(member.config)
                member.history = member.run.history(evaluated_at)
            before = [m.history[-1]["seconds"] for m in self._members if m.history]
            start = time.perf_counter() - max([self._unfinished.seconds, *before])
            training = loops.build(
                self._member_step,
                state,
                self._values,
                self._population,
                self._feed("train", own=True),
                self._order,
                first=step,
                last=self._last_step,
                most=self._config.training.steps_per_loop,
            )
            eval_step = steps.jit_eval_step(
                steps.make_eval_step(self._system.model, self._system.objective),
                state.params,
                self._population,
            )
            hidden = None if processes.is_first() else True  # None: where there is no terminal
            how: dict[str, Any] = {"desc": self._run.path.name, "unit": "step", "disable": hidden}
            with tqdm(total=self._last_step, initial=step, **how) as bar:
                while evaluated_at < self._last_step and not self._all_done(evaluated_at):
                    began, first = time.perf_counter(), step
                    until = min(evaluated_at + self._interval, self._last_step)
                    for at, end in training.between(first, until):
                        training.wait(done)
                        if stop():
                            seconds = time.perf_counter() - start
                            unfinished = Interval(loops=done, seconds=seconds)
                            self._save(checkpoints, at, state, unfinished)
                            raise PreemptedError(at)
                        state, found = training.take(state, at, end)
                        done.append((end - at, found))
                        bar.update(end - at)
                    step = until
                    trained = Interval(loops=done).averages(self._population)
                    rate = (step - first) * self._utterances_a_step / (time.perf_counter() - began)
                    evaluated = self._evaluate("valid", eval_step, state.params)
                    better = []
                    for k, member in enumerate(self._members):
                        entry = {
                            "step": step,
                            "seconds": time.perf_counter() - start,
                            "examples_per_second": rate,
                            **member_lib.named(trained[k], evaluated[k]),
                        }
                        went_on = not member.is_done(evaluated_at, self._interval)
                        better.append(went_on and member.record(entry))
                        if went_on and member.diverged is None:
                            member.run.write_history(member.history)
                            member.show(entry)
                    evaluated_at, done = step, []
                    self._check_any_left()
                    if any(better):
                        state = state_lib.select(state, self._population.stack(better))
                    self._save(checkpoints, step, state)  # before what is only shown
                    bar.set_postfix(
                        member_lib.brief(self._members, self._config.training.selection)
                    )
            for member in self._members:
                member.close()
            checkpoints.wait()
            self._finish(eval_step, state.selected)

    def _save(
        self,
        checkpoints: Checkpoints,
        step: int,
        state: state_lib.TrainState,
        unfinished: Interval | None = None,
    ) -> None:
        description = member_lib.description(self._whole, self._named, self._described)
        if unfinished is not None:
            description["selection"]["unfinished"] = unfinished.to_json()
        checkpoints.save(step, state, description)

    def _member_step(self, values: Mapping[str, jax.Array]) -> steps.TrainStep:
        """The step of a member with `values` in place of the config's, which may be traced."""
        config = config_lib.with_values(self._config, values)
        described = system.build(config, self._data.splits["train"].scores)
        return system.train_step(config, described, self._last_step)

    def _last_state(self, checkpoints: Checkpoints) -> state_lib.TrainState:
        if checkpoints.step is None:
            return self._fresh_state()
        recorded = checkpoints.description()
        self._run.check(self._whole, recorded["config"])
        _check_data(self._run, recorded["schema"]["fingerprint"], self._data.schema.fingerprint)
        member_lib.restore_progress(self._run, self._named, recorded["selection"]["members"])
        if "unfinished" in recorded["selection"]:
            self._unfinished = Interval.from_json(recorded["selection"]["unfinished"])
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
        alone = self._population.size == 1
        started = [
            system.with_pretrained_encoders(
                params if alone else jax.device_put(params, jax.local_devices()[0]),
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


def _check_data(run: Workdir, recorded: str, now: str) -> None:
    if recorded != now:
        raise UserError(
            f"{run.path} was trained on {recorded}, config.data now gives {now}. "
            "Give the same data to go on with it, or another --workdir."
        )
