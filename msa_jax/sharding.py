"""The device mesh and where everything lives on it."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from msa_jax import config
from msa_jax.errors import UserError

# Tensor parallelism over the `model` axis: heads and hidden units are split, so that a block of
# attention or of feed-forward layers needs one sum over devices. First match wins; no match, or
# sizes that do not divide, means a copy on every device of that axis: what stands between blocks is
# small, or would be put together again at once. Optimiser moments have their parameter's path as a
# suffix, so they follow it.
PARAMETER_RULES: Sequence[tuple[str, PartitionSpec]] = (
    (r"/(query|key|value)/kernel$", PartitionSpec(None, "model", None)),
    (r"/(query|key|value)/bias$", PartitionSpec("model", None)),
    (r"attention/out/kernel$", PartitionSpec("model", None, None)),
    (r"expand/kernel$", PartitionSpec(None, "model")),
    (r"expand/bias$", PartitionSpec("model")),
    (r"contract/kernel$", PartitionSpec("model", None)),
)

# Parameters below this name are those of scanned layers, stacked along a first axis that is never
# cut: each layer lies as it would alone.
_STACKED = "/layers/"

# Parameters with fewer numbers are not spread over the `fsdp` axis (biases, norms, small layers):
# to gather one takes longer than its 32 kB are worth.
FSDP_LEAST = 2**13

AXES = ("seed", "data", "fsdp", "model")
_BATCH_AXES = ("data", "fsdp")


def build_mesh(
    sizes: config.Mesh, num_seeds: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh (seed, data, fsdp, model); see `msa_jax.config.Mesh` for -1.

    The axes are `Auto`: since JAX 0.9 `make_mesh` gives explicit ones, under which Linen's dropout
    fails.

    Args:
      sizes: devices an axis.
      num_seeds: that are trained in one program.
      devices: None is all there are.

    Raises:
      UserError: if the axes do not multiply to the number of devices, or seeds do not divide.
    """
    count = jax.device_count() if devices is None else len(devices)
    rest = {"data": sizes.data, "fsdp": sizes.fsdp, "model": sizes.model}
    fill = [name for name, size in rest.items() if size == -1]
    if len(fill) > 1:
        raise UserError(
            f"{' and '.join(f'config.mesh.{name}' for name in fill)} are -1, which takes what is "
            f"left: only one can. Use --config.mesh.{fill[0]}=1."
        )
    fixed = math.prod(size for size in rest.values() if size != -1)
    seed = sizes.seed
    if seed == -1:
        seed = math.gcd(num_seeds, (count // fixed if fixed > 0 else 0) or 1)
    left = seed * fixed
    if fill and left > 0 and count % left == 0:
        rest[fill[0]] = count // left
    shape = (seed, *rest.values())
    if min(shape) < 1 or math.prod(shape) != count:
        raise UserError(
            f"config.mesh.seed={sizes.seed}, .data={sizes.data}, .fsdp={sizes.fsdp} and "
            f".model={sizes.model} do not multiply to the {count} devices here. Each is at least "
            "1; -1 for one of data, fsdp and model takes what is left."
        )
    if num_seeds % seed:
        raise UserError(
            f"{num_seeds} seeds do not divide over config.mesh.seed={sizes.seed} devices: use -1."
        )
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)


def evaluation_batch(size: int, units: int, mesh: Mesh) -> int:
    """`size`, but no more than holds all `units`; a multiple of the devices it is spread over."""
    parts = _batch_devices(mesh)
    return -(-min(size, units) // parts) * parts


def check_batch_size(name: str, size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError unless `accumulate` parts of a batch of `size` divide over the devices."""
    devices = _batch_devices(mesh)
    parts = devices * accumulate
    if size % parts:
        each = f" in each of {accumulate} parts" if accumulate > 1 else ""
        raise UserError(
            f"config.training.{name}={size} does not divide over {devices} devices{each}: "
            f"use {-(-size // parts) * parts}."
        )


def over_data(mesh: Mesh) -> NamedSharding:
    """Rows of a batch spread over the axes `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(_BATCH_AXES))


def keep_rows(x: jax.Array) -> jax.Array:
    """`x` [B, ...] of a traced program, whose rows lie as those of a batch; no mesh, no change.

    For the body of a loop: there the compiler knows not where rows came from, and would rather
    gather the rows of all devices than a parameter that is spread over `fsdp`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = math.prod(mesh.shape.get(axis, 1) for axis in _BATCH_AXES)
    if parts == 1 or len(x) % parts:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(_BATCH_AXES))


def over_seeds(places: Any) -> Any:
    """`places` of a tree's leaves when each has a leading axis of seeds, spread over theirs."""
    return jax.tree.map(
        lambda place: NamedSharding(place.mesh, PartitionSpec("seed", *place.spec)), places
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_state(state: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a train state, by its path and its shape.

    `PARAMETER_RULES` cut parameters over `model`. For fully sharded data parallelism what is large
    is cut over `fsdp` too, as in big_vision along the largest dimension that is whole and divides:
    the compiler gathers it where it is used, and sums its gradient into the same parts.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        leading = 1 if _STACKED in name else 0
        shape = leaf.shape[leading:]
        axes = [None] * leading + _with_fsdp(_by_rules(name, shape, mesh), shape, mesh)
        return NamedSharding(mesh, PartitionSpec(*axes) if any(axes) else PartitionSpec())

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


def _by_rules(name: str, shape: Sequence[int], mesh: Mesh) -> list[str | None]:
    """The axis of each dimension by `PARAMETER_RULES`; an axis of one device cuts nothing."""
    for pattern, spec in PARAMETER_RULES:
        if re.search(pattern, name) and len(spec) == len(shape):
            parts = [mesh.shape[axis] if axis else 1 for axis in spec]
            if all(size % part == 0 for size, part in zip(shape, parts, strict=True)):
                return [axis if part > 1 else None for axis, part in zip(spec, parts, strict=True)]
    return [None] * len(shape)


def _with_fsdp(axes: list[str | None], shape: Sequence[int], mesh: Mesh) -> list[str | None]:
    """`axes`, of which the largest dimension that is whole and divides is cut, of a large array."""
    parts = mesh.shape["fsdp"]
    whole = [d for d, size in enumerate(shape) if axes[d] is None and size % parts == 0]
    if parts == 1 or math.prod(shape) < FSDP_LEAST or not whole:
        return axes
    largest = max(whole, key=lambda d: shape[d])
    return [*axes[:largest], "fsdp", *axes[largest + 1 :]]


def _batch_devices(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in _BATCH_AXES)
