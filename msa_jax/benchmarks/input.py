"""How fast batches can be made, stage by stage, and what that costs a train step."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from msa_jax import config as config_lib
from msa_jax import sharding, steps, system
from msa_jax import state as state_lib
from msa_jax.benchmarks.memory import peak_memory_gb
from msa_jax.data import dataset, feed, order, pipeline
from msa_jax.population import Population


def measure(config: Any, batches: int = 200, repeats: int = 5) -> dict[str, Any]:
    """Examples a second of each stage of the input pipeline, and of training with each feed.

    Stages are nested: each does all that the one before does. All take the same batches, in turn,
    `repeats` times; the figure is the median.

    Args:
      config: as for training; its data are prepared where needed.
      batches: of a measurement.
      repeats: of each measurement, alternating.

    Returns:
      JSON values: `stages` and `training` (`{name: examples a second}`), `shares` (of the time
      that the host's pipeline takes, what each stage adds), `ratios`, `frames` (the share of the
      computed frames that is real) and `peak_memory_gb` of the process.
    """
    resolved = config_lib.resolve(config)
    mesh = sharding.build_mesh(resolved.mesh)
    data = dataset.load(resolved.data, of_videos=config_lib.of_videos(resolved))
    train, batch_size = data.splits["train"], resolved.training.batch_size
    described = system.build(resolved, train.scores)
    buckets = data.buckets["train"]
    units = data.units["train"]
    plan = order.TrainOrder(units, buckets, batch_size, resolved.seed)
    batches = min(batches, plan.steps_per_epoch)
    place = sharding.over_data(mesh)
    made = (train, described.task, buckets, place)
    selections = [plan(step) for step in range(batches)]
    labels = described.task.labels(train.scores)

    def every(work: Callable[[order.Selection], Any]) -> Callable[[], None]:
        def run() -> None:
            for selection in selections:
                work(selection)

        return run

    def draw() -> None:
        fresh = order.TrainOrder(units, buckets, batch_size, resolved.seed)
        for step in range(batches):
            fresh(step)

    def real(selection: order.Selection) -> np.ndarray:
        return selection.rows[selection.rows >= 0]

    def read(selection: order.Selection) -> None:
        rows = np.maximum(selection.rows, 0)
        for modality, sequences in train.sequences.items():
            length = buckets.lengths[selection.bucket][modality]
            sequences.frames.read_padded(sequences.starts[rows], sequences.lengths[rows], length)

    def normalised(selection: order.Selection) -> None:
        train.gather(selection.rows, buckets.lengths[selection.bucket])
        pipeline.columns(train, labels, selection.rows)

    def host() -> None:
        for _ in pipeline.batches(train, described.task, plan, buckets, first=0, last=batches):
            pass

    host_stages = {
        "order": draw,
        "read, pad": every(read),
        "read, pad, normalise": every(normalised),
        "tf.data": host,
    }
    stages = dict(host_stages)
    with jax.set_mesh(mesh):
        step, state = _train_step(resolved, described, data, mesh)
        feeds = {how: feed.build(*made, how=how) for how in ("stream", "resident")}
        for how, source in feeds.items():
            stages[f"{how} feed"] = functools.partial(_feed, source, plan, batches)
        ready = list(feeds["resident"](plan, 0, batches))
        sources: dict[str, Callable[[], Iterable[feed.Batch]]] = {"no feed": lambda: ready}
        for how, source in feeds.items():
            sources[how] = functools.partial(source, plan, 0, batches)

        def training(source: Callable[[], Iterable[feed.Batch]]) -> Callable[[], None]:
            def run() -> None:
                nonlocal state
                for batch in source():
                    state, metrics = step(state, batch)
                jax.block_until_ready(metrics)

            return run

        runs = stages | {f"train, {name}": training(source) for name, source in sources.items()}
        seconds = _alternate(runs, repeats)
    rates = {name: batches * batch_size / each for name, each in seconds.items()}
    computed = sum(
        batch_size * sum(buckets.lengths[selection.bucket].values()) for selection in selections
    )
    kept = sum(
        int(s.lengths[real(selection)].sum())
        for selection in selections
        for s in train.sequences.values()
    )
    alone = rates["train, no feed"]
    spent = [0.0, *(seconds[name] for name in host_stages)]
    added = [after - before for before, after in itertools.pairwise(spent)]
    return {
        "dataset": data.schema.fingerprint,
        "batch_size": batch_size,
        "batches": batches,
        "buckets": [dict(each) for each in buckets.lengths],
        "stages": {name: rates[name] for name in stages},
        "shares": {name: each / spent[-1] for name, each in zip(host_stages, added, strict=True)},
        "training": {name: rates[f"train, {name}"] for name in sources},
        "ratios": {
            "tf.data to train step": rates["tf.data"] / alone,
            "train with stream to without": rates["train, stream"] / alone,
            "train with resident to without": rates["train, resident"] / alone,
        },
        "frames": kept / computed,
        "peak_memory_gb": peak_memory_gb(),
    }


def measure_stream(config: Any) -> dict[str, Any]:
    """Streams one epoch of the train split to the devices.

    Returns:
      JSON values: `dataset`, `gigabytes` of frames streamed, `seconds`, `examples_per_second` and
      `peak_memory_gb` of the process, which includes what was used to prepare the data if they
      were not there yet.
    """
    resolved = config_lib.resolve(config)
    mesh = sharding.build_mesh(resolved.mesh)
    data = dataset.load(resolved.data, of_videos=config_lib.of_videos(resolved))
    train = data.splits["train"]
    buckets = data.buckets["train"]
    plan = order.TrainOrder(
        data.units["train"], buckets, resolved.training.batch_size, resolved.seed
    )
    task = system.build(resolved).task
    source = feed.build(train, task, buckets, sharding.over_data(mesh), how="stream")
    start = time.perf_counter()
    _feed(source, plan, plan.steps_per_epoch)
    seconds = time.perf_counter() - start
    return {
        "dataset": data.schema.fingerprint,
        "gigabytes": train.size / 1e9,
        "seconds": seconds,
        "examples_per_second": len(train) / seconds,
        "peak_memory_gb": peak_memory_gb(),
    }


def _train_step(
    config: config_lib.Config, described: system.System, data: dataset.Dataset, mesh: Any
) -> tuple[steps.JittedTrainStep, state_lib.TrainState]:
    total_steps = 1000
    batch = system.abstract_batch(
        data.schema, config.training.batch_size, of_videos=config_lib.of_videos(config)
    )
    alone = Population(1, mesh)
    optimizer = system.optimizer(config, total_steps)
    state = state_lib.create(described.model, optimizer, batch, [config.seed], alone)
    step = system.train_step(config, described, total_steps)
    return steps.jit_train_step(lambda _: step, state, {}, alone), state


def _feed(source: feed.Feed, plan: order.Order, batches: int) -> None:
    for batch in source(plan, 0, batches):
        jax.block_until_ready(batch)


def _alternate(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turn, to and fro, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name in sorted(runs, key=list(runs).index, reverse=bool(repeat % 2)):
            start = time.perf_counter()
            runs[name]()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}
