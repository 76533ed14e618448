"""A run that is told to end between two evaluations goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax import train
from msa_jax.errors import PreemptedError, UserError
from msa_jax.evaluate import restore
from msa_jax.interval import Interval
from tests.conftest import tiny_config
from tests.test_train import ROOT, assert_same, selected_params

TIMINGS = ("seconds", "examples_per_second")


def history(workdir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def after(times: int) -> Callable[[], bool]:
    """Tells a run to end when it has asked `times` before."""
    asked = iter(range(1_000_000))
    return lambda: next(asked) == times


# Asked before each loop of steps, which never goes beyond an evaluation.
SINGLE = ((3, 3), (0, 3), (3, 6), (2, 8), (3, 11))
IN_THREES = ((1, 3), (0, 3), (2, 7), (1, 8), (1, 11))


@pytest.mark.parametrize(
    ("seeds", "feed", "loop", "stops"),
    [
        (1, "stream", 8, SINGLE),
        (1, "resident", 1, SINGLE),
        (2, "resident", 1, SINGLE),
        (1, "resident", 3, IN_THREES),
        (2, "resident", 3, IN_THREES),
    ],
)
def test_stopped_anywhere_it_ends_with_the_same_bits(
    write_features: Callable[..., str],
    tmp_path: Path,
    seeds: int,
    feed: str,
    loop: int,
    stops: Sequence[tuple[int, int]],
) -> None:
    path, fields = write_features(), {"num_seeds": seeds, "data.feed": feed}
    # 4 steps an evaluation, 12 in all; whole in loops of 4.
    train.train_and_evaluate(tiny_config("text", path, **fields), str(tmp_path / "whole"))
    config = tiny_config("text", path, **fields, **{"training.steps_per_loop": loop})
    stopped = tmp_path / "stopped"
    for times, so_far in stops:
        with pytest.raises(PreemptedError, match=f"at step {so_far}: saved"):
            train.train_and_evaluate(config, str(stopped), after(times))
    train.train_and_evaluate(config, str(stopped))
    for name in ["seed_0", "seed_1"][:seeds] if seeds > 1 else [""]:
        assert history(stopped / name) == history(tmp_path / "whole" / name)
        assert_same(selected_params(tmp_path / "whole" / name), selected_params(stopped / name))


def test_before_its_first_evaluation_there_is_nothing_to_judge(
    write_features: Callable[..., str], tmp_path: Path
) -> None:
    config = tiny_config("text", write_features(), **{"training.steps_per_loop": 1})
    with pytest.raises(PreemptedError):
        train.train_and_evaluate(config, str(tmp_path / "run"), after(2))
    with pytest.raises(UserError, match="stopped before its first evaluation"):
        restore(str(tmp_path / "run"))


def test_what_was_measured_survives_to_the_bit() -> None:
    values = [np.float32(0.1), np.float32(np.nan), np.float32(np.inf), np.float32(1e-42)]
    third = np.float32(1 / 3)
    # Two loops, of two seeds: all three steps count, and one of two.
    loops = [
        (3, {"loss": np.array([values[:3], [third] * 3])}),
        (1, {"loss": np.array([[values[3], 5], [third, 5]])}),
    ]
    interval = Interval(loops=loops, seconds=1.5)
    again = Interval.from_json(json.loads(json.dumps(interval.to_json())))
    assert again.seconds == 1.5
    assert len(again) == len(interval) == 4
    expected = [(1, {"loss": np.array([[value], [third]])}) for value in values]
    assert_same(again.loops, expected)


def test_what_earlier_runs_saved_is_read() -> None:
    saved = {"metrics": [{"loss": [0.5, 2.0]}, {"loss": [0.25, 1.0]}], "seconds": 1.5}
    interval = Interval.from_json(saved)
    assert len(interval) == 2
    assert interval.to_json() == saved
    lone = {"metrics": [{"loss": 0.5}, {"loss": 0.25}], "seconds": 1.5}
    assert Interval.from_json(lone).to_json() == lone


@pytest.mark.slow
def test_a_lone_process_saves_on_sigterm(
    write_features: Callable[..., str], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "msa_jax.main", "--config=configs/text.py"]
    command += [f"--workdir={workdir}", f"--config.data.path={write_features()}"]
    process = subprocess.Popen(
        [*command, "--config.training.epochs=1000"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (workdir / "metrics.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == os.EX_TEMPFAIL
    (saved,) = (each.name for each in (workdir / "checkpoints").iterdir() if each.name.isdigit())
    assert errors == f"preempted at step {saved}: saved; the same command goes on\n"
