"""The benchmarks run and their figures hang together; how fast anything is, is not tested."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch

from msa_jax import config as config_lib
from msa_jax import system
from msa_jax.benchmarks import corpus, cost, startup, twin
from msa_jax.benchmarks import input as input_benchmark
from msa_jax.benchmarks import train as train_benchmark
from msa_jax.errors import UserError
from tests.conftest import tiny_config

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_stages_and_ratios_of_the_input(tmp_path: Path) -> None:
    config = tiny_config("attention", "", **{"data.size": "quick", "data.dir": str(tmp_path)})
    found = json.loads(json.dumps(input_benchmark.measure(config, batches=3, repeats=1)))
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["batches"] == 3
    assert 0.5 < found["frames"] <= 1
    training = found["training"]
    for how in ("stream", "resident"):
        ratio = found["ratios"][f"train with {how} to without"]
        assert ratio == pytest.approx(training[how] / training["no feed"])
    streamed = input_benchmark.measure_stream(config)
    assert streamed["examples_per_second"] * streamed["seconds"] == pytest.approx(5000)
    assert len(found["buckets"]) == 2


@pytest.mark.parametrize("config", ["nope.py", "configs/attention.py:qick"])
def test_a_wrong_config_ends_with_one_line(config: str) -> None:
    command = [sys.executable, "scripts/benchmark.py", "input", f"--config={config}"]
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --config={config}: ")
    assert "Traceback" not in done.stderr


def test_the_pytorch_twin_is_the_papers_model() -> None:
    config = config_lib.resolve(tiny_config("attention", ""))
    channels = {"text": 5, "audio": 3, "vision": 2}
    torch_model = twin.Twin(config, channels).eval()
    model = system.build(config).model
    rng = np.random.default_rng(0)
    batch: dict[str, Any] = {}
    for m, width in channels.items():
        batch[m] = rng.standard_normal((4, 6, width)).astype(np.float32)
        batch[f"{m}_mask"] = np.ones((4, 6), bool)
    params = model.init(jax.random.key(0), batch, False)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == sum(each.numel() for each in torch_model.parameters())
    with torch.no_grad():
        for m in channels:
            _copy_encoder(torch_model.encoders[m], params[f"encoders_{m}"])
        _copy_attention(torch_model.attention, params["fusion"]["attention"])
        _copy(torch_model.norm, params["fusion"]["norm"], "scale")
        linear = [layer for layer in torch_model.classifier if isinstance(layer, torch.nn.Linear)]
        names = [*(f"hidden_{i}" for i in range(len(linear) - 1)), "logits"]
        for layer, name in zip(linear, names, strict=True):
            _copy(layer, params["classifier"][name])
        theirs = torch_model({m: torch.tensor(batch[m]) for m in channels}).numpy()
    mine = model.apply({"params": params}, batch, False).logits
    np.testing.assert_allclose(mine, theirs, atol=1e-5, rtol=1e-5)


def _copy(layer: Any, params: Any, weight: str = "kernel") -> None:
    layer.weight.copy_(torch.tensor(np.array(params[weight]).T))
    layer.bias.copy_(torch.tensor(np.array(params["bias"])))


def _copy_attention(layer: Any, params: Any) -> None:
    width = layer.embed_dim
    parts = [params[name] for name in ("query", "key", "value")]
    kernels = [np.array(part["kernel"]).reshape(width, width).T for part in parts]
    layer.in_proj_weight.copy_(torch.tensor(np.concatenate(kernels)))
    biases = [np.array(part["bias"]).reshape(-1) for part in parts]
    layer.in_proj_bias.copy_(torch.tensor(np.concatenate(biases)))
    layer.out_proj.weight.copy_(
        torch.tensor(np.array(params["out"]["kernel"]).reshape(width, width).T)
    )
    layer.out_proj.bias.copy_(torch.tensor(np.array(params["out"]["bias"])))


def _copy_encoder(encoder: Any, params: Any) -> None:
    _copy(encoder.project, params["project"])
    _copy(encoder.layers.norm, params["norm"], "scale")
    for index, layer in enumerate(encoder.layers.layers):
        mine = params[f"layer_{index}"]
        _copy_attention(layer.self_attn, mine["attention"])
        _copy(layer.norm1, mine["attention_norm"], "scale")
        _copy(layer.norm2, mine["feed_forward_norm"], "scale")
        _copy(layer.linear1, mine["expand"])
        _copy(layer.linear2, mine["contract"])


@pytest.mark.parametrize(
    ("field", "value"), [("model.encoder.pooling", "last"), ("optimizer.name", "adamw")]
)
def test_the_twin_refuses_what_it_does_not_have(field: str, value: str) -> None:
    config = config_lib.resolve(tiny_config("attention", "", **{field: value}))
    with pytest.raises(UserError, match=f"config.{field}={value}"):
        twin.Twin(config, {"text": 5})


def _obey(pipe: Any, obeys: bool) -> None:
    pipe.send("ready")
    assert pipe.recv() == "end"
    time.sleep(0 if obeys else 60)


def test_a_process_leaves_when_told_and_is_killed_if_it_stays() -> None:
    context = multiprocessing.get_context("spawn")
    serving = []
    for obeys in (True, False):
        here, there = context.Pipe()
        process = context.Process(target=_obey, args=(there, obeys), daemon=True)
        process.start()
        there.close()
        assert here.recv() == "ready"
        serving.append(train_benchmark._Serving(str(obeys), process, here))
    train_benchmark._end(serving[:1], patience=60)
    train_benchmark._end(serving[1:], patience=0.1)
    assert [each.process.exitcode for each in serving] == [0, -signal.SIGKILL]


def test_all_are_told_to_leave_and_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[float] = [0.0]
    done: list[tuple[str, Any]] = []
    monkeypatch.setattr(train_benchmark, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Staying:
        def __init__(self, name: str) -> None:
            self.name = name

        def send(self, what: str) -> None:
            done.append((self.name, what))

        def join(self, seconds: float | None = None) -> None:
            done.append((self.name, seconds))
            now[0] += seconds or 0

        def is_alive(self) -> bool:
            return True

        def kill(self) -> None:
            done.append((self.name, "kill"))

        def close(self) -> None:
            pass

    both = [Staying("a"), Staying("b")]
    train_benchmark._end([train_benchmark._Serving(x.name, x, x) for x in both], patience=3)
    assert done[:3] == [("a", "end"), ("b", "end"), ("a", 3)]
    assert [seconds for name, seconds in done if name == "b"][1:3] == [0, "kill"]


_CONTENDER = train_benchmark.Contender(
    config=tiny_config("attention", ""), lengths=np.ones(4, int), batches=1
)


@pytest.mark.parametrize("asked", [[], ["build"]])
def test_a_process_that_nobody_asks_ends_in_silence(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = train_benchmark._Ready(flops=1.0, peak=2.0, run=lambda: None)
    monkeypatch.setattr(train_benchmark, "_build_jax", lambda *_: runner)
    here, there = multiprocessing.Pipe()
    for what in asked:
        here.send(what)
    here.close()  # so that an answer finds nobody either
    train_benchmark._serve(there, _CONTENDER, tmp_path)


@pytest.mark.parametrize("raised", [EOFError("its own"), OSError("its own"), UserError("its own")])
def test_what_goes_wrong_in_a_process_is_handed_on(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        raise raised

    runner = train_benchmark._Ready(flops=1.0, peak=2.0, run=run)
    monkeypatch.setattr(train_benchmark, "_build_jax", lambda *_: runner)
    here, there = multiprocessing.Pipe()

    def serve() -> None:
        with there:  # so that its end would be heard
            train_benchmark._serve(there, _CONTENDER, tmp_path)

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    with pytest.raises(UserError, match=r"^mine: (?s:.*)its own"):
        train_benchmark._ask(train_benchmark._Serving("mine", None, here), "build")
    here.send("end")
    serving.join(60)
    assert not serving.is_alive()


def _die(*_: Any) -> None:
    os._exit(3)


def test_a_process_that_dies_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_benchmark, "_serve", _die)
    told: list[str] = []

    def measure() -> None:
        try:
            train_benchmark.measure({"mine": _CONTENDER}, repeats=1)
        except UserError as error:
            told.append(str(error))

    thread = threading.Thread(target=measure, daemon=True)  # one that hears nothing waits for ever
    thread.start()
    thread.join(60)
    assert told == ["mine: its process ended."]


@pytest.mark.slow
def test_training_is_measured_beside_the_twin() -> None:
    config = tiny_config("attention", "", **{"data.max_length": 12, "training.batch_size": 4})
    lengths = train_benchmark.mosei_lengths(None, 12, 12)
    assert lengths.shape == (12,)
    assert lengths.max() <= 12
    alone = train_benchmark.Contender(config=config, lengths=lengths, batches=3)
    contenders = {
        "jax": alone,
        "padded": dataclasses.replace(alone, padded=True, seeds=2),
        "torch": dataclasses.replace(alone, framework="torch"),
    }
    before = set(multiprocessing.active_children())  # of other tests
    found = train_benchmark.measure(contenders, repeats=1)
    assert set(multiprocessing.active_children()) <= before
    for name, seeds in (("jax", 1), ("padded", 2), ("torch", 1)):
        seconds = found[name]["step_ms"] / 1e3
        assert found[name]["examples_per_second"] == pytest.approx(4 * seeds / seconds)
    assert 0 < found["jax"]["utilisation"] < 1
    assert found["torch"]["utilisation"] is None
    rates = train_benchmark.ratios(found, "torch")
    wanted = found["jax"]["examples_per_second"] / found["torch"]["examples_per_second"]
    assert rates["jax to torch"] == pytest.approx(wanted)
    other = dataclasses.replace(contenders["torch"], config=tiny_config("early", ""))
    with pytest.raises(UserError, match="early"):
        train_benchmark.measure({"torch": other}, repeats=1)
    assert set(multiprocessing.active_children()) <= before


def test_cost_needs_an_encoder_to_double() -> None:
    with pytest.raises(UserError, match=r"kernel=0.*nothing to double"):
        cost.measure(tiny_config("bc_lstm", ""))


@pytest.mark.slow
def test_the_growth_of_cost_is_told_of_every_doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_FRAMES", (4, 8))
    monkeypatch.setattr(cost, "_WIDTHS", (8, 16))
    monkeypatch.setattr(cost, "_LAYERS", (1,))
    monkeypatch.setattr(cost, "_BATCHES", (2, 4))
    found = cost.measure(tiny_config("early", "", **{"training.batch_size": 4}), repeats=1)
    assert {name: list(sizes) for name, sizes in found.items()} == {
        "frames": ["4", "8"],
        "width": ["8", "16"],
        "layers": ["1"],
        "examples": ["8", "16"],
    }
    for name in ("frames", "width", "examples"):
        small, large = found[name].values()
        assert large["times"]["gflops"] > 1.5
        assert large["seconds"] == pytest.approx(small["seconds"] * large["times"]["seconds"])
    assert found["examples"]["16"]["times"]["gflops"] == pytest.approx(2)


@pytest.mark.slow
def test_the_start_of_a_command_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = startup.measure("configs/early.py:quick", repeats=1)
    for marks in (found["cold"], found["warm"]):
        assert 0 < marks["imported"] < marks["data and state"] < marks["first step"]
    with pytest.raises(UserError, match="nope"):
        startup.measure("configs/nope.py", repeats=1)


def test_lengths_are_read_from_a_file_of_segments(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,start,end\na,0,1\nb,2,12\n")
    assert sorted(corpus.lengths(labels)) == [3, 26]
    labels.write_text("id,begin,end\na,0,1\n")
    with pytest.raises(UserError, match="columns start and end"):
        corpus.lengths(labels)
