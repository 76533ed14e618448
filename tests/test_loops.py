"""Steps in loops of any length, or one by one as batches arrive, make the same run."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from msa_jax import steps, train
from msa_jax.config import resolve
from msa_jax.errors import PreemptedError, UserError
from msa_jax.loops import Loops
from tests.conftest import tiny_config
from tests.test_interval import after, history
from tests.test_processes import run
from tests.test_train import assert_same, selected_params

VIDEOS = {"model.context.kind": "recurrent", "model.context.width": 8, "training.batch_size": 4}


def test_loops_lead_from_step_to_step() -> None:
    loops = Loops(3, lambda state, first, last: (state, {}))
    assert list(loops.between(4, 11)) == [(4, 7), (7, 10), (10, 11)]
    assert list(loops.between(4, 4)) == []


def test_the_host_is_a_few_loops_ahead() -> None:
    class Metric:
        def __init__(self) -> None:
            self.waited = False

        def block_until_ready(self) -> None:
            self.waited = True

    def waited(most: int, count: int) -> list[bool]:
        taken = [Metric() for _ in range(count)]
        Loops(most, lambda state, first, last: (state, {})).wait([(1, {"x": x}) for x in taken])
        return [each.waited for each in taken]

    assert waited(8, 1) == [False]
    assert waited(8, 3) == waited(64, 3) == [False, True, False]
    assert waited(1, 15) == [False] * 15
    assert waited(1, 17) == [False, True, *[False] * 15]
    Loops(8, lambda state, first, last: (state, {})).wait([(1, {"x": np.zeros(1)})] * 2)


@pytest.mark.parametrize(
    "fields", [{"training.accumulate": 2, "augment.frame_dropout": 0.2}, VIDEOS], ids=["", "videos"]
)
def test_a_run_is_the_same_in_loops_of_any_length(
    write_features: Callable[..., str], tmp_path: Path, fields: dict[str, Any]
) -> None:
    videos = np.repeat([f"video{i}" for i in range(100)], np.arange(100) % 5 + 1)[:100]
    path = write_features(video_id=videos, segment=np.arange(100))
    ways = {
        "three": {"training.steps_per_loop": 3},
        "more": {"training.steps_per_loop": 64},
        "stream": {"data.feed": "stream"},
    }
    for way, changes in ways.items():
        config = tiny_config("text", path, **fields, **changes, **{"training.epochs": 2})
        train.train_and_evaluate(config, str(tmp_path / way))
    assert len(history(tmp_path / "three")) == 2
    assert history(tmp_path / "three") == history(tmp_path / "more")
    assert_same(selected_params(tmp_path / "three"), selected_params(tmp_path / "more"))
    # The same batches in another program.
    histories = history(tmp_path / "three"), history(tmp_path / "stream")
    for looped, streamed in zip(*histories, strict=True):
        for name in ("step", "train_loss", "valid_loss"):
            assert streamed[name] == pytest.approx(looped[name], rel=1e-4), name


def test_a_last_interval_may_be_shorter(write_features: Callable[..., str], tmp_path: Path) -> None:
    fields = {"batch_size": 12, "evaluations_per_epoch": 2, "epochs": 1}  # 5 steps, 2 an interval
    config = tiny_config(
        "text", write_features(), **{f"training.{k}": x for k, x in fields.items()}
    )
    train.train_and_evaluate(config, str(tmp_path / "whole"))
    assert [line["step"] for line in history(tmp_path / "whole")] == [2, 4, 5]
    with pytest.raises(PreemptedError, match="at step 4: saved"):
        train.train_and_evaluate(config, str(tmp_path / "stopped"), after(2))
    config.training.steps_per_loop = 1
    train.train_and_evaluate(config, str(tmp_path / "stopped"))
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


def test_a_loop_asks_the_host_once(
    write_features: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("text", write_features(), **{"training.steps_per_loop": 8})
    calls: list[tuple[int, int]] = []
    asked: list[int] = []
    make = steps.jit_train_loop
    monkeypatch.setattr(Loops, "wait", lambda _, taken: asked.append(len(taken)))

    def counted(*given: Any) -> Any:
        loop = make(*given)

        def call(state: Any, held: Any, rows: Any, buckets: Any, count: int) -> Any:
            result = loop(state, held, rows, buckets, count)
            # Later ones are held by the checkpoint that is being written, and copied.
            if not calls:
                assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state)), "it is donated"
            calls.append((len(rows), count))
            return result

        return call

    monkeypatch.setattr(steps, "jit_train_loop", counted)
    train.train_and_evaluate(config, str(tmp_path / "run"))
    assert calls == [(8, 4)] * 3  # of 8 at most, up to each evaluation
    assert asked == [0] * 3


# Prints what a loop of two buckets, and each bucket's step, exchange between devices: numbers by
# kind. Arguments: JSON of a mesh's sizes, and how many seeds.
_EXCHANGES = """
import collections, json, math, re, sys
import jax, numpy as np
from msa_jax import config as config_lib
from msa_jax import sharding, state, steps, system
from msa_jax.data import dataset, feed
from msa_jax.population import Population
from tests.conftest import tiny_config

wide = {"model.encoder.hidden": 1024, "data.buckets": 2, "training.batch_size": 16}
config = config_lib.resolve(tiny_config("attention", sys.argv[1], **wide))
seeds = int(sys.argv[3])
mesh = sharding.build_mesh(config_lib.Mesh(**json.loads(sys.argv[2])), seeds)
population = Population(seeds, mesh)
data = dataset.load(config.data)
described = system.build(config, data.splits["train"].scores)
batch = system.abstract_batch(data.schema, 16, of_videos=False)
made = system.train_step(config, described, 10)
place = population.places(sharding.over_data(mesh))

def exchanged(lowered):
    found = collections.Counter()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    pattern = rf"= (\\(.*?\\)|\\S+) ({kinds})(?:-start)?\\("
    for shapes, kind in re.findall(pattern, lowered.compile().as_text()):
        for sizes in re.findall(r"\\w\\d+\\[([\\d,]*)\\]", shapes):
            found[kind] += math.prod(map(int, filter(None, sizes.split(","))))
    return found

with jax.set_mesh(mesh):
    optimizer = system.optimizer(config, 10)
    born = state.create(described.model, optimizer, batch, list(range(seeds)), population)
    frames = feed.Resident(data.splits["train"], described.task, data.buckets["train"], place)
    rows = np.zeros((8, seeds, 16) if seeds > 1 else (8, 16), np.int32)
    loop = steps.jit_train_loop(lambda _: made, born, {}, population, frames.gathers)
    looped = exchanged(loop.lower(born, frames.held, rows, np.zeros(8, np.int32), 8))
    step = steps.jit_train_step(lambda _: made, born, {}, population)
    stepped = collections.Counter()
    for gather in frames.gathers:
        given = jax.eval_shape(gather, frames.held, rows[0])
        given = sharding.abstract(given, dict.fromkeys(given, place))
        stepped += exchanged(step.lower(born, given))
print(json.dumps({"loop": looped, "steps": stepped}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "seeds"), [({"data": 1, "fsdp": 8}, 1), ({"fsdp": 2, "model": 2}, 1), ({"fsdp": 4}, 2)]
)
def test_a_loop_exchanges_no_more_than_its_steps(
    write_features: Callable[..., str], mesh: dict[str, int], seeds: int
) -> None:
    program = [sys.executable, "-c", _EXCHANGES, write_features(), json.dumps(mesh), str(seeds)]
    found = json.loads(run(program, devices=8))
    # What follows the gradients stands in a loop once, for all buckets.
    assert found["loop"]["all-gather"] > 0
    assert found["loop"].keys() == found["steps"].keys()
    assert found["loop"]["all-reduce"] < found["steps"]["all-reduce"]
    assert all(numbers <= found["steps"][kind] for kind, numbers in found["loop"].items())


def test_a_loop_takes_a_step_at_least() -> None:
    with pytest.raises(UserError, match=r"training\.steps_per_loop=0: expected at least 1"):
        resolve(tiny_config("text", "", **{"training.steps_per_loop": 0}))
