"""Runs of one shape that are trained in one program: they differ in seed, or in scalar fields.

Every tree of the program has a leading axis [S], one entry a member. A lone run has no such axis:
its program, and what its checkpoints hold, are those of a program that knows of no population.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from msa_jax import config as config_lib
from msa_jax import processes, sharding
from msa_jax.config import Config
from msa_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Population:
    """How many members there are, and over which devices they are spread.

    Attributes:
      size: S.
      mesh: whose axis `seed` divides S.
      at_once: whether a device computes its members at once, where nothing else is asked for;
        None: on accelerators.
    """

    size: int
    mesh: Mesh
    at_once: bool | None = None

    def each(self, function: Callable[..., Any], at_once: bool | None = None) -> Callable[..., Any]:
        """`function(member, *shared)` for every member, in one program.

        On accelerators members are computed at once. On a CPU each device takes its members one
        after the other: a product of matrices gains nothing there from being batched, and what one
        member needs stays in the caches.

        Args:
          function: of a member's tree, and of arguments that all members share.
          at_once: overrules the population's; None: does not.

        Returns:
          The function of a tree with a leading axis [S]; its result has one too.
        """
        if self.size == 1:
            return function
        at_once = self.at_once if at_once is None else at_once
        if at_once is None:
            at_once = self.mesh.devices.flat[0].platform != "cpu"

        def local(members: Any, *shared: Any) -> Any:
            def one(member: Any) -> Any:
                return function(member, *shared)

            return jax.vmap(one)(members) if at_once else jax.lax.map(one, members)

        def spread(members: Any, *shared: Any) -> Any:
            if self.mesh.shape["seed"] == 1:
                return local(members, *shared)
            own, common = PartitionSpec("seed"), PartitionSpec()
            return jax.shard_map(
                local,
                mesh=self.mesh,
                in_specs=(own, *(common for _ in shared)),
                out_specs=own,
                axis_names={"seed"},
                check_vma=False,
            )(members, *shared)

        return spread

    def stack(self, members: Sequence[Any]) -> Any:
        """The members' trees as one, of NumPy arrays; a lone run's tree as it is."""
        if self.size == 1:
            return members[0]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *processes.fetch(list(members)))

    def unstack(self, tree: Any) -> list[Any]:
        """The inverse of `stack`, as NumPy arrays; a lone run's tree as it is.

        To slice what is spread over devices would be a program with a collective for each leaf, and
        on a CPU several of them under way at once may wait for one another for ever.
        """
        if self.size == 1:
            return [tree]
        leaves, structure = jax.tree.flatten(processes.fetch(tree))
        return [
            jax.tree.unflatten(structure, [leaf[k] for leaf in leaves]) for k in range(self.size)
        ]

    def stacked_shapes(self, shapes: Any) -> Any:
        """The shapes of a stacked tree whose members have `shapes`."""
        if self.size == 1:
            return shapes
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((self.size, *leaf.shape), leaf.dtype), shapes
        )

    def places(self, places: Any) -> Any:
        """The shardings of a stacked tree whose members have `places`."""
        return places if self.size == 1 else sharding.over_seeds(places)


def of_seeds(config: Config) -> dict[str, Config]:
    """The members that `config.num_seeds` asks for, by the name of their directory."""
    seeds = range(config.seed, config.seed + config.num_seeds)
    return {f"seed_{seed}": dataclasses.replace(config, seed=seed, num_seeds=1) for seed in seeds}


def varied(configs: Sequence[Config]) -> dict[str, np.ndarray]:
    """`{dotted name: [S] float32}` of the fields besides the seed in which members differ.

    Raises:
      UserError: if they differ in a field that shapes the program.
    """
    fields = [config_lib.flat(config) for config in configs]
    names = [
        name
        for name in fields[0]
        if name != "seed" and any(each.get(name) != fields[0][name] for each in fields)
    ]
    for name in names:
        check_can_vary(name)
    return {name: np.array([each[name] for each in fields], np.float32) for name in names}


def check_can_vary(name: str) -> None:
    """Raises UserError unless the field can differ between members of one program."""
    dropout = name.startswith("model.") and name.endswith("dropout")
    if not dropout and name not in ("optimizer.learning_rate", "optimizer.weight_decay"):
        raise UserError(
            f"config.{name} cannot differ between runs that are trained in one program: it is no "
            "number that they compute with. What can: optimizer.learning_rate, "
            "optimizer.weight_decay, and the dropouts of the model, such as "
            "model.encoder.dropout."
        )
