"""Examples a second of whole training steps, here and in PyTorch, and where a step's time goes.

Each contender lives in a process of its own, which waits while another is measured: so memory is
its own, and no threads of one framework disturb the other.
"""

import collections
import dataclasses
import functools
import multiprocessing
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from msa_jax import config as config_lib
from msa_jax.benchmarks import corpus
from msa_jax.benchmarks.memory import peak_memory_gb
from msa_jax.errors import UserError

_SIDE = 1024  # of the square matrices whose product gives a machine's peak


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """What is measured.

    Attributes:
      config: as a mapping.
      lengths: [N] frames of an utterance, the same of each modality.
      batches: of a measurement.
      framework: jax or torch.
      seeds: that are trained at once.
      padded: every utterance to `max_length`, as PyTorch's users do.
      compiled: through `torch.compile`.
      device: that PyTorch takes.
    """

    config: Any
    lengths: np.ndarray
    batches: int
    framework: str = "jax"
    seeds: int = 1
    padded: bool = False
    compiled: bool = False
    device: str = "cpu"


class Runner(Protocol):
    """A contender that is ready to run."""

    flops: float
    peak: float

    def run(self) -> None:
        """Trains on all batches once, and waits for the end."""


def measure(contenders: Mapping[str, Contender], repeats: int) -> dict[str, dict[str, Any]]:
    """Each contender's speed, measured in turns.

    Args:
      contenders: by name.
      repeats: of each measurement, to and fro; the first round is not counted.

    Returns:
      `{name: figures}`: `examples_per_second` (of all seeds together; median), `lowest` and
      `highest` of it, `step_ms`, `gflops_per_second`, `peak_gflops_per_second` (of a product of
      matrices in the same process), `utilisation` and `peak_memory_gb`. What needs XLA's count of
      operations (of the step as it is written) is None for PyTorch.

    Raises:
      UserError: if a contender cannot be built or run, or its process ends.
    """
    context = multiprocessing.get_context("spawn")
    serving: dict[str, _Serving] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, contender in contenders.items():
                here, there = context.Pipe()
                own = Path(folder) / str(len(serving))
                own.mkdir()
                arguments = (there, contender, own)
                process = context.Process(target=_serve, args=arguments, daemon=True)
                process.start()
                there.close()  # or the end of the process would not be heard here
                serving[name] = _Serving(name, process, here)
                _ask(serving[name], "build")  # one after the other: each compiles alone
            seconds: dict[str, list[float]] = {name: [] for name in contenders}
            for repeat in range(repeats + 1):
                for name in list(contenders)[:: -1 if repeat % 2 else 1]:
                    taken = _ask(serving[name], "run")
                    if repeat:
                        seconds[name].append(taken)
            described = {name: _ask(each, "describe") for name, each in serving.items()}
        finally:
            _end(serving.values())
    return {
        name: _figures(contender, seconds[name], described[name])
        for name, contender in contenders.items()
    }


@dataclasses.dataclass(frozen=True)
class _Serving:
    """A contender's process, and the pipe by which it is asked."""

    name: str
    process: Any
    pipe: Any


def _figures(
    contender: Contender, seconds: Sequence[float], described: Mapping[str, float]
) -> dict[str, Any]:
    config = config_lib.resolve(contender.config)
    examples = contender.batches * config.training.batch_size * contender.seeds
    median = statistics.median(seconds)
    rate = described["flops"] / median / 1e9 if described["flops"] else None
    return {
        "examples_per_second": examples / median,
        "lowest": examples / max(seconds),
        "highest": examples / min(seconds),
        "step_ms": 1e3 * median / contender.batches,
        "gflops_per_second": rate,
        "peak_gflops_per_second": described["peak"] / 1e9,
        "utilisation": rate and rate / described["peak"] * 1e9,
        "peak_memory_gb": described["memory"],
    }


def _end(serving: Collection[_Serving], patience: float = 10) -> None:
    """Lets processes leave, that PyTorch's compiler may close what it opened; kills the others.

    Args:
      serving: who is told.
      patience: seconds in which all have to leave.
    """
    for each in serving:
        with suppress(OSError):
            each.pipe.send("end")
    last = time.monotonic() + patience
    for each in serving:
        each.process.join(max(last - time.monotonic(), 0))
        if each.process.is_alive():
            each.process.kill()
            each.process.join()
        each.pipe.close()


def _ask(serving: _Serving, what: str) -> Any:
    try:
        serving.pipe.send(what)
        error, value = serving.pipe.recv()
    except (EOFError, OSError):
        raise UserError(f"{serving.name}: its process ended.") from None
    if error:
        raise UserError(f"{serving.name}: {error}")
    return value


def _serve(pipe: Any, contender: Contender, folder: Path) -> None:
    """A contender's process: answers until it is told to end, or until nobody asks any more."""
    runner: Runner

    def build() -> None:
        nonlocal runner
        builds = {"jax": _build_jax, "torch": _build_torch}
        runner = builds[contender.framework](contender, folder)
        runner.run()

    def run() -> float:
        start = time.perf_counter()
        runner.run()
        return time.perf_counter() - start

    def describe() -> dict[str, float]:
        return {"flops": runner.flops, "peak": runner.peak, "memory": peak_memory_gb()}

    answers: dict[str, Callable[[], Any]] = {"build": build, "run": run, "describe": describe}
    with suppress(EOFError, OSError):  # of the pipe alone: what an answer raises is handed on
        while (asked := pipe.recv()) != "end":
            pipe.send(_tried(answers[asked]))


def _tried(answer: Callable[[], Any]) -> tuple[str, Any]:
    """What went wrong, or nothing, and the answer."""
    try:
        return "", answer()
    except UserError as error:
        return str(error), None
    except Exception:
        return traceback.format_exc(), None


@dataclasses.dataclass
class _Ready:
    flops: float
    peak: float
    run: Callable[[], None]


def _build_jax(contender: Contender, folder: Path) -> Runner:
    import jax

    from msa_jax import cpu, loops, sharding, system
    from msa_jax import state as state_lib
    from msa_jax.data import buckets, feed, order
    from msa_jax.population import Population

    config, batches = config_lib.resolve(contender.config), contender.batches
    cpu.prepare(contender.seeds)
    mesh = sharding.build_mesh(config.mesh, contender.seeds)
    cpu.keep_memory(mesh)
    population = Population(contender.seeds, mesh)
    split, schema = corpus.split(contender.lengths, config, folder)
    units = split.units(of_videos=config_lib.of_videos(config))
    count = 1 if contender.padded else config.data.buckets
    held = buckets.fit(units, count, of_videos=config_lib.of_videos(config))
    if contender.padded:
        held = held.reaching(dict.fromkeys(config.data.modalities, config.data.max_length))
    seeds = range(config.seed, config.seed + contender.seeds)
    orders = [order.TrainOrder(units, held, config.training.batch_size, seed) for seed in seeds]
    plan = order.SideBySide(orders) if contender.seeds > 1 else orders[0]
    described = system.build(config, split.scores)
    optimizer = system.optimizer(config, batches)
    batch = system.abstract_batch(
        schema, config.training.batch_size, of_videos=config_lib.of_videos(config)
    )
    with jax.set_mesh(mesh):
        state = state_lib.create(described.model, optimizer, batch, list(seeds), population)
        made = system.train_step(config, described, batches)
        place = population.places(sharding.over_data(mesh))
        source = feed.Resident(split, described.task, held, place)
        training = loops.build(
            lambda _: made,
            state,
            {},
            population,
            source,
            plan,
            first=0,
            last=batches,
            most=config.training.steps_per_loop,
        )

    def run() -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            for first, last in training.between(0, batches):
                state, metrics = training.take(state, first, last)
            jax.block_until_ready(metrics)

    # Counted of one member's step before it is compiled: of a loop, XLA counts the body once.
    member = jax.eval_shape(
        functools.partial(state_lib.initialize, described.model, optimizer), batch, np.uint32(0)
    )
    flops = 0.0
    shapes = collections.Counter(plan(index).bucket for index in range(batches))
    for bucket, times in shapes.items():
        rows = jax.ShapeDtypeStruct((plan.sizes[bucket],), np.int32)
        example = jax.eval_shape(source.gathers[bucket], source.held, rows)
        counted: Any = jax.jit(made).lower(member, example).cost_analysis()
        flops += counted["flops"] * times * contender.seeds
    return _Ready(flops, _matmul_peak_jax(), run)


def _build_torch(contender: Contender, folder: Path) -> Runner:
    import torch

    from msa_jax.benchmarks import twin

    config, batches = config_lib.resolve(contender.config), contender.batches
    device = contender.device
    channels = {m: corpus.CHANNELS[m] for m in config.data.modalities}
    trainer = twin.Trainer(config, channels, device, compiled=contender.compiled)
    size, longest = config.training.batch_size, config.data.max_length
    count = batches * size
    rng = np.random.default_rng(0)
    frames = {}
    for m, width in channels.items():
        padded = np.zeros((count, longest, width), np.float32)
        for row, length in enumerate(np.resize(contender.lengths, count)):
            padded[row, :length] = rng.standard_normal((length, width), np.float32)
        frames[m] = torch.from_numpy(padded).to(device)
    labels = torch.from_numpy(rng.integers(0, 3, count)).to(device)

    def run() -> None:
        order = torch.randperm(count, device=device)
        for index in range(batches):
            rows = order[index * size : (index + 1) * size]
            loss = trainer.step({m: each[rows] for m, each in frames.items()}, labels[rows])
        loss.item()

    return _Ready(0.0, _matmul_peak_torch(device), run)


def _matmul_peak_jax() -> float:
    import jax
    import jax.numpy as jnp

    x = jnp.ones((_SIDE, _SIDE))
    product = jax.jit(jnp.matmul)
    return _rate(lambda: jax.block_until_ready(product(x, x)))


def _matmul_peak_torch(device: str) -> float:
    import torch

    x = torch.ones(_SIDE, _SIDE, device=device)
    return _rate(lambda: (x @ x)[0, 0].item())


def _rate(product: Callable[[], Any], repeats: int = 20) -> float:
    """FLOP/s of the fastest of some products."""
    product()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return 2 * _SIDE**3 / min(times)


def mosei_lengths(labels: Path | None, count: int, max_length: int) -> np.ndarray:
    """[count] frames of utterances as long as CMU-MOSEI's, cut at `max_length`; see `corpus`."""
    return np.resize(corpus.lengths(labels), count).clip(1, max_length)


def ratios(found: Mapping[str, Mapping[str, Any]], base: str) -> dict[str, float]:
    """Each contender's examples a second over those of `base`."""
    rates: Sequence[tuple[str, float]] = [(k, v["examples_per_second"]) for k, v in found.items()]
    return {f"{name} to {base}": rate / dict(rates)[base] for name, rate in rates if name != base}
