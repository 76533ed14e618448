"""What the TPU compiler makes of a train step, on a machine without a TPU.

The step, the mesh and the shardings are those of training; the compiler is the TPU's own (libtpu).
Nothing is run: times are bounds, reckoned from what the compiled program computes and moves.
"""

import dataclasses
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from msa_jax import config as config_lib
from msa_jax import sharding, steps, system
from msa_jax import state as state_lib
from msa_jax.benchmarks import hlo, roofline
from msa_jax.config import Config
from msa_jax.data import synthetic
from msa_jax.data.schema import FeatureSchema
from msa_jax.errors import UserError, nearest
from msa_jax.population import Population
from msa_jax.state import TrainState

# CMU-MOSEI's: GloVe, COVAREP, FACET.
CHANNELS = synthetic.CHANNELS
PARTS = ("arithmetic", "memory", "interconnect")


def measure(
    config: Any, slices: Sequence[str], batch_per_chip: int | None = None
) -> list[dict[str, Any]]:
    """Compiles the train step for TPU slices, and for one of their chips with as much to do.

    Features are as wide as CMU-MOSEI's and every utterance has `config.data.max_length` frames, the
    longest bucket: no data are read.

    Args:
      config: a `ConfigDict` from `configs/`, or any mapping of the same fields.
      slices: generation and shape of each, such as v5e:4x4.
      batch_per_chip: utterances a step and chip; None: `config.training.batch_size` is the whole
        slice's, as it is in training.

    Returns:
      JSON values of each slice. `memory`: GiB on each chip, and whether they fit. `flops` and
      `hbm_bytes` of a step and chip (`bytes_accessed` is the compiler's own count, fast vector
      memory included). `collectives`: by kind, how many a step runs and the bytes of the whole
      arrays. `step_seconds`: what arithmetic, memory and interconnect take at their peaks, and the
      step if collectives are `hidden` behind the rest or `exposed`; `limit` is the longest.
      `scaling_efficiency`: one chip's step (or, where a chip cannot hold the model, the slice's
      without its collectives) over the slice's, in which each chip has as large a batch.

    Raises:
      UserError: if libtpu is missing, a slice is unknown, or mesh or batch do not fit.
    """
    resolved = config_lib.resolve(config)
    _check(resolved)
    measured: dict[tuple[str, int], dict[str, Any]] = {}

    def once(name: str, mesh: Mesh, batch: int) -> dict[str, Any]:
        if (name, batch) not in measured:
            measured[name, batch] = _measure(resolved, mesh, batch, _chip(name))
        return measured[name, batch]

    planned = []
    for name in slices:  # all are checked before any is compiled
        _chip(name)
        devices = _devices(name)
        mesh = sharding.build_mesh(resolved.mesh, devices=devices)
        batch = resolved.training.batch_size
        batch = batch if batch_per_chip is None else batch_per_chip * len(devices)
        sharding.check_batch_size("batch_size", batch, mesh, resolved.training.accumulate)
        planned.append((name, mesh, batch))
    result = []
    for name, mesh, batch in planned:
        found = {
            "slice": name,
            "chips": mesh.size,
            "mesh": dict(mesh.shape),
            "dtype": resolved.training.dtype,
            "frames": resolved.data.max_length,
            "batch": batch,
            "batch_per_chip": batch / mesh.size,
            **once(name, mesh, batch),
        }
        times = found.get("step_seconds")
        if times and batch % (mesh.size * resolved.training.accumulate) == 0:
            lone = f"{name.partition(':')[0]}:{_chip(name).slices[0]}"
            alone = sharding.build_mesh(config_lib.Mesh(), devices=_devices(lone))
            one = once(lone, alone, batch // mesh.size)
            held = {"exposed": max(times["arithmetic"], times["memory"])}
            before = one.get("step_seconds", held)["exposed"]
            found["one_chip"] = {key: one[key] for key in ("memory", "step_seconds") if key in one}
            found["scaling_efficiency"] = {
                how: before / times[how] for how in ("hidden", "exposed")
            }
        result.append(found)
    return result


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table, a row a slice."""
    columns = ["slice", "chips", "batch a chip", "GiB a chip", "GFLOPs a chip"]
    columns += [f"{name}, ms" for name in PARTS]
    lines = [
        f"| {' | '.join([*columns, 'limit', 'efficiency'])} |",
        f"| --- |{' ---: |' * (len(columns) - 1)} --- | --- |",
    ]
    for each in found:
        start = f"| {each['slice']} | {each['chips']} | {each['batch_per_chip']:g} "
        start += f"| {each['memory']['total']:.2f} "
        if not each["memory"]["fits"]:
            lines.append(f"{start}| | | | | does not fit | |")
            continue
        times = [f"{1000 * each['step_seconds'][name]:.3f}" for name in PARTS]
        efficiency = sorted(each.get("scaling_efficiency", {}).values())
        shown = " to ".join(f"{100 * value:.0f} %" for value in efficiency)
        end = f"{each['limit']} | {shown}"
        lines.append(f"{start}| {each['flops'] / 1e9:.1f} | {' | '.join(times)} | {end} |")
    return "\n".join(lines) + "\n"


def _check(config: Config) -> None:
    unknown = [m for m in config.data.modalities if m not in CHANNELS]
    if unknown:
        raise UserError(
            f"config.data.modalities names {', '.join(unknown)}, whose width is not known without "
            f"data. Known: {', '.join(CHANNELS)}."
        )
    if config.num_seeds > 1:
        raise UserError(
            f"config.num_seeds={config.num_seeds}: seeds share nothing but the chips. Compile the "
            "step of one, with --config.num_seeds=1."
        )
    if config_lib.of_videos(config):
        raise UserError(
            "config.model.context reads whole videos, whose sizes are not known without data: "
            "compile the model without it, with --config.model.context.kind=none."
        )


def _chip(name: str) -> roofline.Chip:
    generation, _, shape = name.partition(":")
    if generation not in roofline.CHIPS:
        raise UserError(
            f"--topology={name}: expected a TPU and its shape, such as v5e:4x4. "
            f"{nearest(generation, roofline.CHIPS)}"
        )
    chip = roofline.CHIPS[generation]
    if shape not in chip.slices:
        known = ", ".join(f"{generation}:{each}" for each in chip.slices)
        raise UserError(f"--topology={name} is no slice of {generation}. Known: {known}.")
    return chip


def _devices(name: str) -> Sequence[jax.Device]:
    """The chips of a slice, to compile for."""
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise UserError(
            "the TPU's compiler, which is there for Linux on x86-64, is not installed: "
            'pip install -e ".[tpu]"'
        ) from error
    generation, _, shape = name.partition(":")
    lone = math.prod(int(length) for length in shape.split("x")) == 1
    found = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{'v5' if generation == 'v5p' else generation}:{shape}",
        chips_per_host_bounds=(1, 1, 1) if lone else (2, 2, 1),
    )
    return found.devices


def _measure(config: Config, mesh: Mesh, batch: int, chip: roofline.Chip) -> dict[str, Any]:
    """What the compiler says of the train step on `mesh`, a batch of `batch` over all its chips."""
    start = time.perf_counter()
    step, rows, state = _step(config, mesh, batch)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    held = sum(map(_held, jax.tree.leaves((state.params, state.opt_state, state.selected))))
    found: dict[str, Any] = {"parameters": parameters, "state_gib_per_chip": held / 2**30}
    least = (held + sum(map(_held, jax.tree.leaves(state.params)))) / 2**30
    if least > chip.hbm_gib:  # with gradients: to compile it would take long and tell no more
        return {**found, "memory": {"fits": False, "total": least}}
    try:
        with jax.set_mesh(mesh):
            compiled = step.lower(state, rows).compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([GM]) of ([\d.]+)G hbm", str(error))
        if not used:
            raise
        total = float(used[1]) / (1 if used[2] == "G" else 1024)
        return {**found, "memory": {"fits": False, "total": total}}
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    program = hlo.read(compiled.as_text(), mesh.size, trips=config.training.accumulate)
    flops = costs["flops"] + program.repeated_flops  # the compiler counts a loop's body once
    times = roofline.step_time(
        chip,
        flops=flops,
        hbm_bytes=program.hbm_bytes,
        collectives=program.collectives,
        places=np.array([device.coords for device in mesh.devices.flat]),
    )
    return {
        **found,
        "memory": _memory(memory),
        "flops": flops,
        "hbm_bytes": program.hbm_bytes,
        "bytes_accessed": costs["bytes accessed"],
        "collectives": _by_kind(program.collectives),
        "step_seconds": {
            **dataclasses.asdict(times),
            "hidden": times.hidden,
            "exposed": times.exposed,
        },
        "limit": times.limit,
        "compile_seconds": time.perf_counter() - start,
    }


def _step(config: Config, mesh: Mesh, batch: int) -> tuple[Any, dict[str, Any], TrainState]:
    """The step of a run, as of streamed data; the shapes of a batch and of its state."""
    described = system.build(config)
    total_steps = 10_000  # a number in the program
    made = system.train_step(config, described, total_steps)
    optimizer = system.optimizer(config, total_steps)
    schema = FeatureSchema(
        fingerprint="",
        channels={m: CHANNELS[m] for m in config.data.modalities},
        lengths=dict.fromkeys(config.data.modalities, config.data.max_length),
    )
    rows = system.abstract_batch(schema, batch, of_videos=False)
    rows = sharding.abstract(rows, dict.fromkeys(rows, sharding.over_data(mesh)))
    alone = Population(1, mesh)
    state = state_lib.abstract(described.model, optimizer, rows, alone)
    return steps.jit_train_step(lambda _: made, state, {}, alone), rows, state


def _held(leaf: Any) -> int:
    """Bytes of an array's part on each chip."""
    size: int = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return size


def _memory(stats: Any) -> dict[str, Any]:
    """GiB a chip; what is aliased is an output in an argument's place."""
    gib = {
        "arguments": stats.argument_size_in_bytes / 2**30,
        "outputs": stats.output_size_in_bytes / 2**30,
        "aliased": stats.alias_size_in_bytes / 2**30,
        "temporaries": stats.temp_size_in_bytes / 2**30,
        "program": stats.generated_code_size_in_bytes / 2**30,
    }
    total = sum(gib.values()) - 2 * gib["aliased"]
    return {"fits": True, **gib, "total": total}  # else it would not have been compiled


def _by_kind(collectives: Sequence[hlo.Collective]) -> dict[str, dict[str, int]]:
    count, size = Counter[str](), Counter[str]()
    for each in collectives:
        count[each.kind] += each.times
        size[each.kind] += each.times * each.size
    return {kind: {"count": count[kind], "bytes": size[kind]} for kind in count}
