"""Whole commands in processes of their own: killed and resumed, and on more devices."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import FAST_COMPILING
from tests.test_train import ROOT, assert_same, selected_params

pytestmark = pytest.mark.slow
TINY = [
    "--config.model.encoder.width=8",
    "--config.model.encoder.num_heads=2",
    "--config.model.encoder.num_layers=1",
    "--config.training.batch_size=16",
    "--config.training.eval_batch_size=16",
    "--config.data.buckets=2",  # each is a program to compile
]


def command(path: str, workdir: Path, *flags: str) -> list[str]:
    main = [sys.executable, "-m", "msa_jax.main", "--config=configs/attention.py"]
    return [*main, f"--workdir={workdir}", f"--config.data.path={path}", *TINY, *flags]


def run(arguments: list[str], devices: int = 1) -> str:
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": f"{flags} {FAST_COMPILING}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment, timeout=300, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_at_any_step_ends_with_the_same_bits(
    write_features: Callable[..., str], tmp_path: Path
) -> None:
    path, epochs = write_features(), "--config.training.epochs=20"
    run(command(path, tmp_path / "whole", epochs))
    killed = tmp_path / "killed"

    def saved() -> int:
        steps = [each.name for each in (killed / "checkpoints").glob("*") if each.name.isdigit()]
        return max(map(int, steps), default=0)

    for _ in range(2):
        process = subprocess.Popen(
            command(path, killed, epochs),
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before, deadline = saved(), time.monotonic() + 120
        while saved() == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(random.uniform(0.0, 0.5))
        assert process.poll() is None, "the run ended before it could be killed: give it more steps"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "results.json").exists()
    run(command(path, killed, epochs))
    assert_same(selected_params(tmp_path / "whole"), selected_params(killed))
    results = [json.loads((tmp_path / n / "results.json").read_text()) for n in ("whole", "killed")]
    assert results[0]["splits"] == results[1]["splits"]


def test_eight_devices_give_the_losses_of_one(
    write_features: Callable[..., str], tmp_path: Path
) -> None:
    path, histories, predictions = write_features(), [], []
    spread = ("--config.num_seeds=2",)  # each seed on four of the devices
    for devices, flags in ((1, ()), (8, ()), (8, ("--config.mesh.model=2",)), (8, spread)):
        workdir = tmp_path / f"run_{len(histories)}"
        run(command(path, workdir, "--config.training.epochs=4", *flags), devices)
        if flags == spread:
            workdir = workdir / "seed_0"
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        histories.append([json.loads(line) for line in lines])
        out = tmp_path / f"{len(histories)}.csv"
        run([sys.executable, "scripts/evaluate.py", f"--workdir={workdir}", f"--predictions={out}"])
        rows = [line.split(",") for line in out.read_text().splitlines()[1:]]
        predictions.append(np.array([row[5:] for row in rows], float))
    for other in (1, 2, 3):
        for name in ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy"):
            one, many = ([entry[name] for entry in histories[i]] for i in (0, other))
            np.testing.assert_allclose(one, many, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(predictions[0], predictions[other], atol=1e-5)


def test_seeds_on_devices_of_their_own_start_from_their_own_encoders(
    write_features: Callable[..., str], tmp_path: Path
) -> None:
    path, epochs = write_features(), "--config.training.epochs=2"
    late = command(path, tmp_path / "late", epochs, "--config.num_seeds=2")
    late[3] = "--config=configs/late.py"
    run(late, devices=2)
    encoders = f"--config.init.encoders=('{tmp_path / 'late'}',)"
    start = (epochs, encoders, "--config.init.freeze=True")
    run(command(path, tmp_path / "two", *start, "--config.num_seeds=2"), devices=2)
    run(command(path, tmp_path / "lone", *start, "--config.seed=1"))
    for name in ("train_loss", "valid_loss"):
        lone, member = (
            [json.loads(line)[name] for line in (run_of / "metrics.jsonl").read_text().splitlines()]
            for run_of in (tmp_path / "lone", tmp_path / "two" / "seed_1")
        )
        np.testing.assert_allclose(lone, member, rtol=1e-5, err_msg=name)


def test_videos_on_several_devices_give_the_losses_of_one(
    write_features: Callable[..., str], tmp_path: Path
) -> None:
    names = np.repeat([f"video{i}" for i in range(100)], np.arange(100) % 5 + 1)[:100]
    path, losses = write_features(video_id=names, segment=np.arange(100)), []
    for devices, config in ((1, "attention"), (4, "attention"), (4, "late")):
        workdir = tmp_path / f"{config}_{devices}"
        arguments = command(path, workdir, "--config.training.epochs=2", "--config.num_seeds=2")
        arguments[3] = f"--config=configs/{config}.py:context"
        arguments += ["--config.training.batch_size=4", "--config.training.eval_batch_size=4"]
        run(arguments, devices)
        lines = (workdir / "seed_1" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["valid_loss"] for line in lines])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert np.isfinite(losses[2]).all()


def test_wrong_commands_end_with_one_clear_line(
    write_features: Callable[..., str], tmp_path: Path
) -> None:
    arguments = command(write_features(), tmp_path / "run", "--config.training.batch_size=12")
    flags = "--xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": f"{flags} {FAST_COMPILING}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment, timeout=300, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "config.training.batch_size=12 does not divide over 8 devices: use 16" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
