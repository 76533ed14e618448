"""The device mesh and where everything lives on it."""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from msa_jax import config
from msa_jax.errors import UserError

# First match wins; no match means a copy on every device.
PARAMETER_RULES: Sequence[tuple[str, PartitionSpec]] = ()


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


def check_batch_size(name: str, size: int, mesh: Mesh) -> None:
    """Raises UserError unless a batch of `size` divides over the mesh's data axis."""
    parts = mesh.shape["data"]
    if size % parts:
        raise UserError(
            f"config.training.{name}={size} does not divide over {parts} devices: "
            f"use {-(-size // parts) * parts}."
        )


def over_data(mesh: Mesh) -> NamedSharding:
    """Rows of a batch spread over the data axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_state(state: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a train state, by the rules on its path.

    Optimiser moments have their parameter's path as a suffix, so the same rules place them.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, spec in PARAMETER_RULES:
            if leaf.ndim and re.search(pattern, name):
                return NamedSharding(mesh, spec)
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, state)
