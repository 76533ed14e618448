"""Where parameters and batches live: rules, the golden file, refusals, another mesh.

python -m tests.test_sharding
  writes the golden file `tests/sharding.txt` anew, after a change of rules or models that is meant.
"""

import importlib
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from msa_jax import config as config_lib
from msa_jax import optim, sharding, system
from msa_jax import state as state_lib
from msa_jax.data.schema import FeatureSchema
from msa_jax.errors import UserError
from tests.test_processes import ROOT, command, run

GOLDEN = Path(__file__).with_name("sharding.txt")
SYSTEMS = sorted(
    path.stem
    for path in ROOT.glob("configs/*.py")
    if path.stem not in ("common", "attention_robust")
)
MESHES = ({"data": 8}, {"fsdp": 8}, {"fsdp": 4, "model": 2})
MOSEI = FeatureSchema(
    fingerprint="",
    channels={"text": 300, "audio": 74, "vision": 35},
    lengths={"text": 50, "audio": 50, "vision": 50},
)


def mesh_of(**sizes: int) -> AbstractMesh:
    return AbstractMesh(tuple(sizes.get(axis, 1) for axis in sharding.AXES), sharding.AXES)


def shapes_of(name: str, **changes: Any) -> state_lib.TrainState:
    """The shapes of the state of `configs/NAME.py` on CMU-MOSEI's features."""
    described = importlib.import_module(f"configs.{name}").get_config()
    described.update_from_flattened_dict(changes)
    config = config_lib.resolve(described)
    model, optimizer = system.build(config).model, optim.build(config.optimizer, 100)
    batch = system.abstract_batch(MOSEI, 8, of_videos=config_lib.of_videos(config))
    return jax.eval_shape(
        lambda batch: state_lib.initialize(model, optimizer, batch, jnp.uint32(0)), batch
    )


def specs(tree: Any, mesh: AbstractMesh) -> dict[str, P]:
    """The partition of every leaf, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): place.spec
        for path, place in jax.tree_util.tree_leaves_with_path(sharding.of_state(tree, mesh))
    }


def golden() -> str:
    """A line a parameter: its path, its shape, and the axis of each dimension on each mesh.

    Layers and modalities that lie alike are one line, which says how many they are and in whose
    path `*` stands for them.
    """
    lines = []
    for name in SYSTEMS:
        params = shapes_of(name).params
        placed = [specs(params, mesh_of(**sizes)) for sizes in MESHES]
        shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
        titles = [" ".join(f"{axis}={size}" for axis, size in sizes.items()) for sizes in MESHES]
        rows = [("many", f"configs/{name}.py", "shape", *titles)]
        found: Counter[tuple[str, ...]] = Counter()
        for path, shape in zip(placed[0], shapes, strict=True):
            axes = [" ".join(axis or "-" for axis in each[path]) or "whole" for each in placed]
            alike = re.sub(r"(?<=_)\d+(?=/)|(?<![a-z])(audio|text|vision)(?![a-z])", "*", path)
            found[alike, "x".join(map(str, shape)) or "scalar", *axes] += 1
        rows += [(str(many), *row) for row, many in found.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        lines.append("")
    return "\n".join(lines)


def test_every_parameter_lies_where_the_golden_file_says() -> None:
    wanted, found = GOLDEN.read_text().splitlines(), golden().splitlines()
    changed = [line for line in found if line not in wanted]
    changed += [f"no more: {line}" for line in wanted if line not in found]
    assert found == wanted, (
        f"{len(changed)} lines differ from {GOLDEN.name}; if that is meant, run "
        f"`python -m tests.test_sharding`: {changed[:5]}"
    )


def test_moments_and_selected_parameters_lie_where_their_parameters_do() -> None:
    mesh = mesh_of(fsdp=4, model=2)
    state = shapes_of("attention")
    params, everything = specs(state.params, mesh), specs(state, mesh)
    for prefix in ("params", "selected", "opt_state/1/0/mu", "opt_state/1/0/nu"):
        for path, spec in params.items():
            assert everything[f"{prefix}/{path}"] == spec
    assert everything["step"] == everything["rng"] == P()


def test_fsdp_leaves_little_whole() -> None:
    """Of a large model each of 8 devices holds an eighth, but for a per cent."""
    large = {"width": 1024, "hidden": 4096, "num_heads": 16, "num_layers": 2}
    state = shapes_of("attention", **{f"model.encoder.{k}": v for k, v in large.items()})
    for sizes, share in (({"fsdp": 8}, 1 / 8), ({"fsdp": 4, "model": 2}, 1 / 8), ({"data": 8}, 1)):
        places = sharding.of_state(state, mesh_of(**sizes))
        held = [
            np.prod(place.shard_shape(leaf.shape))
            for place, leaf in zip(jax.tree.leaves(places), jax.tree.leaves(state), strict=True)
        ]
        whole = sum(leaf.size for leaf in jax.tree.leaves(state))
        assert share <= sum(held) / whole <= share * 1.05


def test_sizes_that_do_not_divide_stay_whole() -> None:
    leaf = jax.ShapeDtypeStruct((129, 301), jnp.float32)
    small = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    tree = {"project": {"kernel": leaf}, "expand": {"kernel": leaf}, "join": {"kernel": small}}
    assert set(specs(tree, mesh_of(fsdp=4, model=2)).values()) == {P()}
    assert specs(tree, mesh_of(fsdp=43, model=7))["expand/kernel"] == P("fsdp", "model")
    assert specs(tree, mesh_of(fsdp=43, model=2))["expand/kernel"] == P(None, "fsdp")
    assert specs(tree, mesh_of(model=7))["expand/kernel"] == P(None, "model")


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 4, "model": 2}])
def test_each_scanned_layer_lies_as_it_would_alone(sizes: dict[str, int]) -> None:
    size = {"model.encoder.hidden": 256, "model.encoder.num_layers": 16}  # more layers than heads
    unrolled = specs(shapes_of("attention", **size), mesh_of(**sizes))
    scanned = shapes_of("attention", **size, **{"model.encoder.layers": "scanned"})
    found = specs(scanned, mesh_of(**sizes))
    assert sum("/layers/" in path for path in found) == 4 * 3 * 16  # params, moments, selected
    for path, spec in found.items():
        alone = unrolled[path.replace("/layers/", "/layer_7/")]
        stacked = P(None, *alone) if alone and "/layers/" in path else alone
        assert spec == stacked, path
    assert any("fsdp" in spec for path, spec in found.items() if "/layers/" in path)


def test_rows_in_a_loop_lie_as_those_of_a_batch() -> None:
    with jax.sharding.use_abstract_mesh(mesh_of(data=2, fsdp=4)):
        for rows, kept in ((16, True), (12, False)):
            program = jax.make_jaxpr(sharding.keep_rows)(jnp.ones((rows, 3)))
            assert ("sharding_constraint" in str(program)) == kept
    assert str(jax.make_jaxpr(sharding.keep_rows)(jnp.ones((16, 3)))).count("=") == 0


def test_a_mesh_that_does_not_fit_is_refused() -> None:
    devices = [jax.devices()[0]] * 8
    for sizes, words in (
        ({"data": 3, "model": 5}, r"\.data=3, \.fsdp=1 and \.model=5 do not multiply to the 8 dev"),
        ({"fsdp": 3}, r"\.fsdp=3 .*do not multiply to the 8 devices.*-1 for one of"),
        ({"data": 1, "fsdp": 0}, r"\.fsdp=0 .*at least 1"),
        ({"data": 1, "fsdp": -2}, r"\.fsdp=-2 .*at least 1"),
        ({"fsdp": -1}, r"config\.mesh\.data and config\.mesh\.fsdp are -1.*config\.mesh\.data=1"),
    ):
        with pytest.raises(UserError, match=words):
            sharding.build_mesh(config_lib.Mesh(**sizes), devices=devices)
    with pytest.raises(UserError, match=r"3 seeds do not divide over config\.mesh\.seed=2"):
        sharding.build_mesh(config_lib.Mesh(seed=2), num_seeds=3, devices=devices)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "use"), [(16, 1, None), (12, 1, 16), (24, 2, 32)]
)
def test_batches_divide_over_data_and_fsdp(
    batch_size: int, accumulate: int, use: int | None
) -> None:
    mesh = mesh_of(data=2, fsdp=4, model=2)
    assert sharding.over_data(mesh).shard_shape((16, 3)) == (2, 3)
    assert sharding.evaluation_batch(256, 13, mesh) == 16
    if use is None:
        sharding.check_batch_size("batch_size", batch_size, mesh, accumulate)
        return
    with pytest.raises(UserError, match=rf"batch_size={batch_size} does.*8 devices.*: use {use}\."):
        sharding.check_batch_size("batch_size", batch_size, mesh, accumulate)


WIDE = ("--config.model.encoder.hidden=1024",)  # large enough to be spread
# Runs the command, and dies once the first checkpoint is written.
_DIES = """
import os
from msa_jax import checkpoints, command, main
save = checkpoints.Checkpoints.save
def save_and_die(self, *args):
    save(self, *args)
    self.wait()
    os._exit(0)
checkpoints.Checkpoints.save = save_and_die
command.run(main.main)
"""

# Prints which share of the largest parameters a device holds, and the predictions.
_JUDGES = """
import json, sys
import jax
from msa_jax import conditions, config, evaluate, robustness
restored = evaluate.restore(sys.argv[1])
largest = max(jax.tree.leaves(restored.params), key=lambda leaf: leaf.size)
share = largest.addressable_shards[0].data.size / largest.size
outputs = restored.evaluate().predictions.outputs.tolist()
complete = robustness.predict(restored, [(conditions.COMPLETE, 0)])[0].tolist()
cut = evaluate._mesh(config.Mesh(model=2)).shape["fsdp"]
print(json.dumps({"share": share, "cut": cut, "outputs": outputs, "complete": complete}))
"""


@pytest.mark.slow
def test_a_run_goes_on_with_other_meshes_and_the_same_losses(
    write_features: Callable[..., str], tmp_path: Path
) -> None:
    def compare(name: str, other: str) -> None:
        lines = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in (name, other)]
        for loss in ("train_loss", "valid_loss"):
            one, two = ([json.loads(line)[loss] for line in history] for history in lines)
            assert len(one) == 3
            np.testing.assert_allclose(one, two, rtol=1e-5, err_msg=f"{other} {loss}")

    path, fsdp = write_features(), "--config.mesh.fsdp=8"
    wide = ("--config.training.epochs=3", "--config.data.buckets=1", *WIDE)
    run(command(path, tmp_path / "whole", *wide, fsdp), devices=8)
    arguments = command(path, tmp_path / "died", *wide, fsdp)
    run([sys.executable, "-c", _DIES, *arguments[3:]], devices=8)
    one, eight = (
        json.loads(run([sys.executable, "-c", _JUDGES, str(tmp_path / "whole")], devices))
        for devices in (1, 8)
    )
    assert (one["share"], eight["share"]) == (1, 1 / 8)
    assert (one["cut"], eight["cut"]) == (1, 8)
    for found in (one["complete"], eight["outputs"], eight["complete"]):
        np.testing.assert_allclose(one["outputs"], found, atol=1e-6)
    both = ("--config.mesh.fsdp=4", "--config.mesh.model=2")
    for name, devices, mesh in (("other", 8, both), ("one", 1, ())):
        shutil.copytree(tmp_path / "died", tmp_path / name)
        run(command(path, tmp_path / name, *wide, *mesh), devices)
        compare("whole", name)
    seeds = ("--config.num_seeds=2", "--config.mesh.fsdp=4")  # each seed on four of the devices
    run(command(path, tmp_path / "seeds", *wide, *seeds), devices=8)
    compare("whole", "seeds/seed_0")
    scanned = ("--config.model.encoder.layers=scanned", "--config.model.encoder.remat=cheap")
    run(command(path, tmp_path / "scanned", *wide, *scanned), devices=1)
    run(command(path, tmp_path / "scanned_seeds", *wide, *scanned, *seeds), devices=8)
    compare("scanned", "scanned_seeds/seed_0")


if __name__ == "__main__":
    GOLDEN.write_text(golden())
