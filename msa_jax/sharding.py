"""The device mesh and where everything lives on it."""

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
    (r"/attention/out/kernel$", PartitionSpec("model", None, None)),
    (r"/expand/kernel$", PartitionSpec(None, "model")),
    (r"/expand/bias$", PartitionSpec("model")),
    (r"/contract/kernel$", PartitionSpec("model", None)),
)


def build_mesh(sizes: config.Mesh) -> Mesh:
    """The mesh (data, model) over all devices; -1 takes what the other axis leaves.

    The axes are `Auto`: since JAX 0.9 `make_mesh` gives explicit ones, under which Linen's dropout
    fails.

    Raises:
      UserError: if the axes do not multiply to the number of devices.
    """
    count = jax.device_count()
    shape = [sizes.data, sizes.model]
    if shape.count(-1) == 1:
        known = -shape[0] * shape[1]
        if known > 0 and count % known == 0:
            shape[shape.index(-1)] = count // known
    if min(shape) < 1 or shape[0] * shape[1] != count:
        raise UserError(
            f"config.mesh.data={sizes.data} times config.mesh.model={sizes.model} does not give "
            f"the {count} devices here. -1 for one of them takes what is left."
        )
    return jax.make_mesh(tuple(shape), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


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
