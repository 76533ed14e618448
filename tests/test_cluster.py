"""Several processes that train one model: what they compute, and how they end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax import train
from tests.conftest import FAST_COMPILING, tiny_config
from tests.test_interval import history
from tests.test_train import ROOT

pytestmark = pytest.mark.slow
TINY = {
    "data.buckets": 1,
    "model.encoder.width": 8,
    "model.encoder.num_heads": 2,
    "model.encoder.num_layers": 1,
    "model.encoder.hidden": 16,
    "training.batch_size": 8,
    "training.eval_batch_size": 16,
}
ONE_LINE = re.compile(r"error: [^\n]+\n")


@pytest.fixture
def start() -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Starts the processes of a cluster; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(
        workdir: Path,
        config: Any,
        count: int,
        devices: int = 1,
        *flags: str,
        counts: tuple[int, ...] = (),
        missing: tuple[int, ...] = (),
    ) -> list[subprocess.Popen[str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [*trained_by(workdir, config), *flags]
        device_count = f"--xla_force_host_platform_device_count={devices}"
        processes = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env={
                    **os.environ,
                    "JAX_PLATFORMS": "cpu",
                    "XLA_FLAGS": f"{device_count} {FAST_COMPILING}",
                    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                    "JAX_NUM_PROCESSES": str(counts[index] if counts else count),
                    "JAX_PROCESS_ID": str(index),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(count)
            if index not in missing
        ]
        started.extend(processes)
        return processes

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def trained_by(workdir: Path, config: Any) -> list[str]:
    """The command that trains what `small_config` describes."""
    command = [sys.executable, "-m", "msa_jax.main", f"--workdir={workdir}"]
    command += ["--config=configs/text.py", f"--config.data.path={config.data.path}"]
    command += [f"--config.training.epochs={config.training.epochs}"]
    command += [f"--config.data.feed={config.data.feed}"]
    command += [f"--config.num_seeds={config.num_seeds}"]
    return command + [f"--config.{name}={value}" for name, value in TINY.items()]


def ended(processes: list[subprocess.Popen[str]], status: int = 0) -> list[tuple[str, str]]:
    """What each process printed and complained of."""
    printed = [process.communicate(timeout=150) for process in processes]
    for process, (_, errors) in zip(processes, printed, strict=True):
        assert process.returncode == status, errors
    return printed


def wait_for(path: Path, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.02)


def assert_same_losses(first: Path, second: Path) -> None:
    one, other = history(first), history(second)
    assert [line["step"] for line in one] == [line["step"] for line in other]
    for name in ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy"):
        values = [[line[name] for line in lines] for lines in (one, other)]
        np.testing.assert_allclose(*values, rtol=1e-5, err_msg=name)


def small_config(path: str, **changes: Any) -> Any:
    return tiny_config("text", path, **TINY, **changes)


@pytest.mark.parametrize("feed", ["stream", "resident"])
def test_two_processes_give_the_losses_of_one(
    write_features: Callable[..., str], tmp_path: Path, feed: str
) -> None:
    # Once batch and heads are spread over both, once each has a seed of its own.
    seeds, devices, mesh = (1, 4, ["--config.mesh.model=2"]) if feed == "stream" else (2, 1, [])
    changes = {"data.feed": feed, "num_seeds": seeds, "training.epochs": 2}
    config = small_config(write_features(), **changes)
    train.train_and_evaluate(config, str(tmp_path / "one"))
    two = [*trained_by(tmp_path / "two", config), *mesh]
    done = subprocess.run(
        ["launch/local.sh", "2", *two],
        cwd=ROOT,
        env={
            **os.environ,
            "DEVICES": str(devices),
            "LOGS": str(tmp_path / "logs"),
            "XLA_FLAGS": FAST_COMPILING,
        },
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert "majority" in done.stdout
    second = (tmp_path / "logs" / "process_1.log").read_text()
    assert "majority" not in second, "only the first prints"
    files = [
        sorted(str(path.relative_to(each)) for path in each.rglob("*") if "check" not in str(path))
        for each in (tmp_path / "one", tmp_path / "two")
    ]
    names = [[name for name in each if "tfevents" not in name] for each in files]
    assert names[0] == names[1]
    assert len(files[0]) == len(files[1]), "only the first writes"
    for name in ("seed_0", "seed_1") if seeds > 1 else ("",):
        assert_same_losses(tmp_path / "one" / name, tmp_path / "two" / name)


def test_sigterm_to_one_saves_the_same_step_on_all_and_any_number_goes_on(
    start: Callable[..., Any], write_features: Callable[..., str], tmp_path: Path
) -> None:
    config = small_config(write_features(count=200), **{"training.epochs": 10})  # of 15 steps
    train.train_and_evaluate(config, str(tmp_path / "whole"))
    stopped, copy = tmp_path / "stopped", tmp_path / "copy"
    processes = start(stopped, config, 2, 4)
    wait_for(stopped / "metrics.jsonl", processes)
    time.sleep(0.1)
    processes[0].send_signal(signal.SIGSTOP)  # both wait, so that no notice comes too late
    processes[1].send_signal(signal.SIGTERM)
    time.sleep(1.5)  # JAX looks once a second
    processes[0].send_signal(signal.SIGCONT)
    said = [errors for _, errors in ended(processes, os.EX_TEMPFAIL)]
    (saved,) = (each.name for each in (stopped / "checkpoints").iterdir() if each.name.isdigit())
    assert 15 <= int(saved) < 150
    for errors in said:
        assert f"preempted at step {saved}: saved; the same command goes on\n" in errors
    subprocess.run(["cp", "-r", stopped, copy], check=True)
    train.train_and_evaluate(config, str(stopped))
    assert_same_losses(tmp_path / "whole", stopped)
    ended(start(copy, config, 4))
    assert_same_losses(tmp_path / "whole", copy)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_peer_ends_the_run(
    start: Callable[..., Any], write_features: Callable[..., str], tmp_path: Path, victim: int
) -> None:
    config = small_config(write_features(), **{"training.epochs": 1000})
    processes = start(tmp_path / "run", config, 2)
    wait_for(tmp_path / "run" / "metrics.jsonl", processes)
    killed = time.monotonic()
    processes.pop(victim).kill()
    ((_, errors),) = ended(processes, 1)
    assert time.monotonic() - killed < 30
    assert f"error: process {1 - victim} of 2 cannot go on: another one died" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "run" / "checkpoints").exists()


def test_a_wrong_cluster_ends_with_one_line(
    start: Callable[..., Any], write_features: Callable[..., str], tmp_path: Path
) -> None:
    config, began = small_config(write_features()), time.monotonic()
    run = tmp_path / "run"
    alone = [start(run, config, 2, 1, "--join_seconds=2", missing=(each,)) for each in (0, 1)]
    for missing, lone in enumerate(alone):
        ((_, errors),) = ended(lone, 1)
        assert ONE_LINE.fullmatch(errors), errors
        assert f"process {1 - missing} of 2 has not met the others at 127.0.0.1:" in errors
    for _, errors in ended(start(run, config, 2, counts=(2, 3)), 1):
        assert ONE_LINE.fullmatch(errors), errors
        assert "JAX_NUM_PROCESSES is 2 of process 0, but 3 of process 1" in errors
    assert time.monotonic() - began < 150  # not the 300 s of --join_seconds
    assert not run.exists()


def test_what_is_refused_is_refused_by_all(
    start: Callable[..., Any], write_features: Callable[..., str], tmp_path: Path
) -> None:
    config = small_config(write_features())
    refused = start(tmp_path / "run", config, 2, 1, "--config.training.batch_size=9")
    for _, errors in ended(refused, 1):
        assert errors == (
            "error: config.training.batch_size=9 does not divide over 2 devices: use 10.\n"
        )
    assert not (tmp_path / "run").exists()
