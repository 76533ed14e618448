"""The device mesh and where everything lives on it."""

import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from msa_jax import config
from msa_jax.errors import UserError

# Tensor parallelism over the `model` axis: heads and hidden units are split, so that a block needs
# one sum over devices. First match wins; no match, or sizes that do not divide, means a copy on
# every device. Optimiser moments have their parameter's path as a suffix, so they follow it.
PARAMETER_RULES: Sequence[tuple[str, PartitionSpec]] = (
    (r"/(query|key|value)/kernel$", PartitionSpec(None, "model", None)),
    (r"/(query|key|value)/bias$", PartitionSpec("model", None)),
    (r"attention/out/kernel$", PartitionSpec("model", None, None)),
    (r"/expand/kernel$", PartitionSpec(None, "model")),
    (r"/expand/bias$", PartitionSpec("model")),
    (r"/contract/kernel$", PartitionSpec("model", None)),
)


AXES = ("seed", "data", "model")


def spread_over_cores(num_seeds: int) -> None:
    """Makes JAX see as many CPU devices as there are cores over which `num_seeds` divide evenly.

    One seed's step is too small to fill two cores; two seeds' steps are not. To be called before
    anything else asks for a device; does nothing to accelerators, nor where XLA's flags say how
    many devices there are.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        devices = max(n for n in range(1, (cores or 1) + 1) if num_seeds % n == 0)
        jax.config.update("jax_num_cpu_devices", devices)


def build_mesh(sizes: config.Mesh, num_seeds: int = 1) -> Mesh:
    """The mesh (seed, data, model) over all devices; see `msa_jax.config.Mesh` for -1.

    The axes are `Auto`: since JAX 0.9 `make_mesh` gives explicit ones, under which Linen's dropout
    fails.

    Raises:
      UserError: if the axes do not multiply to the number of devices, or seeds do not divide.
    """
    count = jax.device_count()
    seed = sizes.seed
    if seed == -1:
        fixed = max(sizes.data, 1) * max(sizes.model, 1)
        seed = math.gcd(num_seeds, count // fixed or 1)
    shape = [seed, sizes.data, sizes.model]
    if shape.count(-1) == 1:
        known = -math.prod(shape)
        if known > 0 and count % known == 0:
            shape[shape.index(-1)] = count // known
    if min(shape) < 1 or math.prod(shape) != count:
        raise UserError(
            f"config.mesh.seed={sizes.seed}, .data={sizes.data} and .model={sizes.model} do not "
            f"multiply to the {count} devices here. -1 for data or model takes what is left."
        )
    if num_seeds % seed:
        raise UserError(
            f"{num_seeds} seeds do not divide over config.mesh.seed={sizes.seed} devices: use -1."
        )
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def evaluation_batch(size: int, units: int, mesh: Mesh) -> int:
    """`size`, but no more than holds all `units`; a multiple of the devices along the data axis."""
    parts = mesh.shape["data"]
    return -(-min(size, units) // parts) * parts


def check_batch_size(name: str, size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError unless `accumulate` parts of a batch of `size` divide over the data axis."""
    devices = mesh.shape["data"]
    parts = devices * accumulate
    if size % parts:
        each = f" in each of {accumulate} parts" if accumulate > 1 else ""
        raise UserError(
            f"config.training.{name}={size} does not divide over {devices} devices{each}: "
            f"use {-(-size // parts) * parts}."
        )


def over_data(mesh: Mesh) -> NamedSharding:
    """Rows of a batch spread over the data axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def over_seeds(places: Any) -> Any:
    """`places` of a tree's leaves when each has a leading axis of seeds, spread over theirs."""
    return jax.tree.map(
        lambda place: NamedSharding(place.mesh, PartitionSpec("seed", *place.spec)), places
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_state(state: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a train state, by `PARAMETER_RULES` on its path."""

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, spec in PARAMETER_RULES:
            if re.search(pattern, name) and _divides(leaf.shape, spec, mesh):
                return NamedSharding(mesh, spec)
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, state)


def abstract(tree: Any, places: Any = None) -> Any:
    """Shape, dtype and sharding of every leaf: its own sharding, or the one in `places`."""
    if places is None:
        places = jax.tree.map(lambda leaf: leaf.sharding, tree)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        places,
    )


def _divides(shape: Sequence[int], spec: PartitionSpec, mesh: Mesh) -> bool:
    return len(shape) == len(spec) and all(
        axis is None or size % mesh.shape[axis] == 0 for size, axis in zip(shape, spec, strict=True)
    )
