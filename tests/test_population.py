"""Several seeds, or several values of a field, trained in one program."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msa_jax import config as config_lib
from msa_jax import (
    member,
    models,
    optim,
    population,
    predictions,
    sharding,
    steps,
    train,
    workdir,
)
from msa_jax import state as state_lib
from msa_jax.errors import UserError
from msa_jax.population import Population
from msa_jax.tasks import Task
from msa_jax.workdir import Workdir
from tests.conftest import random_batch, tiny_config
from tests.test_train import evaluate, selected_params

Write = Callable[..., str]


def _history(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _assert_like(alone: Path, together: Path) -> None:
    """The same losses, choice and predictions, up to rounding."""
    one, other = _history(alone), _history(together)
    assert [entry["step"] for entry in one] == [entry["step"] for entry in other]
    for a, b in zip(one, other, strict=True):
        for name in ("train_loss", "valid_loss"):
            assert a[name] == pytest.approx(b[name], rel=1e-4)
    results = [json.loads((path / "results.json").read_text()) for path in (alone, together)]
    assert results[0]["step"] == results[1]["step"]
    # Not parameters: some (keys' biases) have no gradient but rounding, which Adam makes large.
    tables = [
        predictions.read(path / "predictions_test.csv", Task(kind="three_class"))
        for path in (alone, together)
    ]
    np.testing.assert_allclose(tables[0].outputs, tables[1].outputs, atol=1e-3)


def test_each_seed_ends_as_if_trained_alone(write_features: Write, tmp_path: Path) -> None:
    path = write_features()
    overrides = {"training.patience": 2, "training.epochs": 6, "optimizer.learning_rate": 0.02}
    config = tiny_config("attention", path, num_seeds=3, seed=4, **overrides)
    summary = train.train_and_evaluate(config, str(tmp_path / "together"))
    assert list(summary["seeds"]) == ["seed_4", "seed_5", "seed_6"]
    accuracies = []
    for seed in (4, 5, 6):
        alone = tmp_path / f"alone_{seed}"
        train.train_and_evaluate(tiny_config("attention", path, seed=seed, **overrides), str(alone))
        member = tmp_path / "together" / f"seed_{seed}"
        _assert_like(alone, member)
        assert {p.name for p in alone.iterdir() if "tfevents" not in p.name} == {
            p.name for p in member.iterdir() if "tfevents" not in p.name
        }
        results = json.loads((member / "results.json").read_text())
        accuracies.append(results["splits"]["test"]["metrics"]["accuracy"])
        judged = evaluate(str(member)).metrics()
        assert judged["accuracy"] == pytest.approx(accuracies[-1])
    lengths = {len(_history(tmp_path / "together" / f"seed_{seed}")) for seed in (4, 5, 6)}
    assert len(lengths) > 1, "seeds should stop at steps of their own here"
    shown = summary["splits"]["test"]["metrics"]["accuracy"]
    assert shown["mean"] == pytest.approx(np.mean(accuracies))
    assert shown["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert shown["best"] == max(accuracies)
    assert shown["low"] <= shown["mean"] <= shown["high"]


def test_a_finished_member_is_a_finished_run(write_features: Write, tmp_path: Path) -> None:
    path = write_features()
    overrides = {"training.epochs": 1}
    train.train_and_evaluate(
        tiny_config("text", path, num_seeds=2, **overrides), str(tmp_path / "run")
    )
    seen = train.train_and_evaluate(
        tiny_config("text", path, seed=1, **overrides), str(tmp_path / "run" / "seed_1")
    )
    assert seen["seed"] == 1
    with pytest.raises(UserError, match=r"holds the runs of several seeds.*seed_0"):
        evaluate(str(tmp_path / "run"))
    with pytest.raises(UserError, match="num_seeds: 2 there, 3 now"):
        train.train_and_evaluate(
            tiny_config("text", path, num_seeds=3, **overrides), str(tmp_path / "run")
        )


def test_a_seed_that_diverged_is_named_and_left_out(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("text", write_features(), num_seeds=2, **{"training.epochs": 2})
    original, run = train.Member.record, tmp_path / "run"

    def diverge(self: Any, entry: dict[str, Any]) -> bool:
        late = self.config.seed == 1 and entry["step"] == 8
        return original(self, {**entry, "train_loss": float("nan")} if late else entry)

    monkeypatch.setattr(train.Member, "record", diverge)
    summary = train.train_and_evaluate(config, str(run))
    assert {name: each["diverged"] for name, each in summary["seeds"].items()} == {
        "seed_0": None,
        "seed_1": 8,
    }
    assert not (run / "seed_1" / "results.json").exists()
    alone = json.loads((run / "seed_0" / "results.json").read_text())
    accuracy = alone["splits"]["test"]["metrics"]["accuracy"]
    assert summary["splits"]["test"]["metrics"]["accuracy"]["mean"] == accuracy
    assert workdir.runs(str(run)) == [str(run / "seed_0")]


def test_a_metric_that_is_not_a_number_survives_the_history(tmp_path: Path) -> None:
    """A member with a constant prediction may be done before an interruption."""
    run = Workdir(str(tmp_path))
    lines = [{"step": 4, "train_loss": 0.5, "valid_corr": float("nan")}]
    run.write_history(lines)
    np.testing.assert_equal(run.history(4), lines)
    config = config_lib.resolve({"model": {"name": "early"}})
    members = [member.Member(config, run, history=run.history(4)) for _ in range(2)]
    assert member.brief(members, "corr") == {"loss": "0.500", "valid": "nan corr"}


class _StopError(Exception):
    """The process dies here."""


@pytest.mark.parametrize("last_words", ["evaluation", "results"])
def test_a_population_resumes_to_the_same_bits(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_words: str
) -> None:
    config = tiny_config("attention", write_features(), num_seeds=2)
    expected = train.train_and_evaluate(config, str(tmp_path / "whole"))
    calls = 0
    name = "_evaluate" if last_words == "evaluation" else "_finish"
    original = getattr(train._Training, name)

    def stop(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if last_words == "results":
            original(self, *args)
        if last_words == "results" or calls == 2:
            raise _StopError
        return original(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(train._Training, name, stop)
        with pytest.raises(_StopError):
            train.train_and_evaluate(config, str(tmp_path / "stopped"))
    resumed = train.train_and_evaluate(config, str(tmp_path / "stopped"))
    assert resumed["splits"] == expected["splits"]
    for seed in ("seed_0", "seed_1"):
        whole, stopped = tmp_path / "whole" / seed, tmp_path / "stopped" / seed
        jax.tree.map(
            np.testing.assert_array_equal, selected_params(whole), selected_params(stopped)
        )
    assert not (tmp_path / "stopped" / "checkpoints").exists()


def test_a_seed_that_diverges_does_not_stop_the_others(
    write_features: Write, tmp_path: Path
) -> None:
    base = config_lib.resolve(tiny_config("text", write_features(), **{"training.epochs": 2}))
    rates = {"good": 1e-2, "bad": 1e30}
    configs = {
        name: config_lib.with_values(
            base, {"optimizer.learning_rate": rate, "optimizer.clip_norm": 0.0}
        )
        for name, rate in rates.items()
    }
    members = train.train_together(configs, Workdir(str(tmp_path / "run")), base)
    assert members["good"].results is not None
    assert members["good"].diverged is None
    assert members["bad"].results is None, "as alone"
    assert members["bad"].diverged == 4
    assert not (tmp_path / "run" / "bad" / "results.json").exists()


def test_swept_values_act_as_if_they_were_the_config(write_features: Write, tmp_path: Path) -> None:
    path = write_features()
    overrides: dict[str, Any] = {"training.epochs": 2, "optimizer.name": "adamw"}
    base = config_lib.resolve(tiny_config("attention", path, **overrides))
    trials: dict[str, dict[str, Any]] = {
        "a": {"optimizer.learning_rate": 3e-3, "model.encoder.dropout": 0.0},
        "b": {"optimizer.learning_rate": 1e-2, "model.encoder.dropout": 0.5},
    }
    trials["b"]["optimizer.weight_decay"] = 0.3
    configs = {name: config_lib.with_values(base, trial) for name, trial in trials.items()}
    train.train_together(configs, Workdir(str(tmp_path / "together")), base)
    for name, trial in trials.items():
        alone = tiny_config("attention", path, **overrides, **trial)
        train.train_and_evaluate(alone, str(tmp_path / name))
        _assert_like(tmp_path / name, tmp_path / "together" / name)


def test_what_shapes_the_program_cannot_vary(write_features: Write) -> None:
    base = config_lib.resolve(tiny_config("attention", "data.npz"))
    for path, value in (("model.encoder.width", 16), ("training.epochs", 7)):
        other = config_lib.with_values(base, {path: value})
        with pytest.raises(UserError, match=f"config.{path} cannot differ"):
            population.varied([base, other])
    same = [dataclasses.replace(base, seed=seed) for seed in range(3)]
    assert population.varied(same) == {}


def test_pretrained_encoders_come_from_the_same_seed(write_features: Write, tmp_path: Path) -> None:
    path, late = write_features(), tmp_path / "late"
    train.train_and_evaluate(
        tiny_config("late", path, num_seeds=2, **{"training.epochs": 1}), str(late)
    )
    overrides = {"init.encoders": (str(late),), "init.freeze": True, "training.epochs": 1}
    train.train_and_evaluate(
        tiny_config("early", path, num_seeds=2, **overrides), str(tmp_path / "early")
    )
    kernels = []
    for seed in ("seed_0", "seed_1"):
        source, mine = selected_params(late / seed), selected_params(tmp_path / "early" / seed)
        jax.tree.map(np.testing.assert_array_equal, source["encoders_text"], mine["encoders_text"])
        kernels.append(mine["encoders_text"]["project"]["kernel"])
    assert not np.array_equal(*kernels)


@pytest.mark.parametrize("devices", [1, 2])
def test_members_are_spread_over_devices(devices: int) -> None:
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} devices; tests/test_processes.py runs this on eight")
    mesh = sharding.build_mesh(config_lib.Mesh(data=-1), num_seeds=2)
    shared = Population(2, mesh)
    double = jax.jit(shared.each(lambda member, other: member * 2 + other))
    with jax.set_mesh(mesh):
        found = double(jnp.arange(6.0).reshape(2, 3), jnp.ones(3))
    np.testing.assert_array_equal(found, np.arange(6.0).reshape(2, 3) * 2 + 1)
    for k, tree in enumerate(
        shared.unstack(shared.stack([{"a": jnp.ones(2) * k} for k in (0, 1)]))
    ):
        np.testing.assert_array_equal(tree["a"], np.full(2, k))


@pytest.mark.parametrize(
    ("at_once", "layers"), [(False, "unrolled"), (True, "unrolled"), (True, "scanned")]
)
def test_a_program_of_many_seeds_compiles_once_and_does_what_lone_ones_do(
    at_once: bool, layers: str
) -> None:
    mesh = sharding.build_mesh(config_lib.Mesh(), num_seeds=2)
    shared = Population(2, mesh, at_once=at_once)
    encoder = {"width": 8, "num_layers": 1, "num_heads": 2, "hidden": 16, "dropout": 0.2}
    if layers == "scanned":
        encoder |= {"num_layers": 2, "layers": "scanned", "remat": "cheap"}
    model = models.build(
        {"name": "early", "encoder": encoder},
        modalities=("text", "audio"),
        num_outputs=3,
    )
    optimizer = optim.build(config_lib.Optimizer(), 100)
    made = steps.make_train_step(model, optimizer, steps.Objective(loss="cross_entropy"))
    place = shared.places(sharding.over_data(mesh))

    def seeds(step: int) -> list[Any]:
        return [random_batch(seed=2 * step + k) for k in range(2)]

    def batch(step: int) -> Any:
        return jax.device_put(jax.tree.map(lambda *x: np.stack(x), *seeds(step)), place)

    with jax.set_mesh(mesh):
        state = state_lib.create(model, optimizer, random_batch(), [0, 1], shared)
        step = steps.jit_train_step(lambda _: made, state, {}, shared)
        for number in range(3):
            state, found = step(state, batch(number))
    assert step._cache_size() == 1
    for k in range(2):
        alone, lone_step = state_lib.initialize(model, optimizer, random_batch(), k), jax.jit(made)
        for number in range(3):
            alone, expected = lone_step(alone, seeds(number)[k])
        np.testing.assert_allclose(found["loss"][k], expected["loss"], rtol=1e-5)
        kernel = ("classifier", "logits", "kernel")
        one, other = (
            shared.unstack(state.params)[k][kernel[0]][kernel[1]][kernel[2]],
            alone.params[kernel[0]][kernel[1]][kernel[2]],
        )
        np.testing.assert_allclose(one, other, atol=1e-5)
