"""Finished runs, compared from what they left behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax import comparison, metrics
from msa_jax.errors import UserError
from msa_jax.predictions import PredictionTable
from msa_jax.tasks import Task
from tests.test_train import ROOT

TASK = Task(kind="regression")
SCORES = np.random.default_rng(0).uniform(-3, 3, 60).astype(np.float32)


def write_run(folder: Path, error: float, seed: int, task: Task = TASK, count: int = 60) -> None:
    """A finished run whose predictions are off by about `error`."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed).normal(0, error, count).astype(np.float32)
    table = PredictionTable(
        ids=[f"u{i}" for i in range(count)],
        video_ids=[f"v{i // 3}" for i in range(count)],
        scores=SCORES[:count],
        outputs=(SCORES[:count] + noise)[:, None],
    )
    (folder / "predictions_test.csv").write_text(table.to_csv(TASK))
    fitted = metrics.fit_baselines(TASK, SCORES)
    baselines = metrics.of_baselines(TASK, fitted, SCORES[:count])
    results: Any = {
        "task": {"kind": task.kind, "neutral": task.neutral},
        "splits": {"test": {"baselines": baselines}},
    }
    (folder / "results.json").write_text(json.dumps(results))


def test_a_real_difference_is_found_and_none_is_not(tmp_path: Path) -> None:
    for name, error in (("good", 0.3), ("alike", 0.3), ("bad", 0.9)):
        (tmp_path / name).mkdir()
        whole = {"seeds": {f"seed_{seed}": {"diverged": None} for seed in range(4)}}
        (tmp_path / name / "results.json").write_text(json.dumps(whole))
        for seed in range(4):
            write_run(tmp_path / name / f"seed_{seed}", error, seed=seed + len(name))
    found = comparison.compare([str(tmp_path / name) for name in ("good", "alike", "bad")])
    assert found["systems"]["good"]["seeds"] == 4
    mae = {name: each["metrics"]["mae"]["mean"] for name, each in found["systems"].items()}
    assert mae["good"] == pytest.approx(0.3 * np.sqrt(2 / np.pi), rel=0.2)
    by_pair = {(c["first"], c["second"]): c for c in found["comparisons"]}
    assert set(by_pair) == {("alike", "good"), ("bad", "good"), ("bad", "alike")}
    assert by_pair["bad", "good"]["p_adjusted"] < 0.001
    assert by_pair["bad", "good"]["difference"] == pytest.approx(mae["bad"] - mae["good"], rel=1e-5)
    assert by_pair["alike", "good"]["p_adjusted"] > 0.05


def test_the_command_says_it_in_words(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 0.3, seed=0)
    write_run(tmp_path / "two", 1.2, seed=1)
    command = [sys.executable, "scripts/compare.py", "--workdir", str(tmp_path / "one")]
    command += ["--workdir", str(tmp_path / "two"), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "two falls short of one by" in done.stdout
    assert "median" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["n"] == 60


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 0.3, seed=0)
    write_run(tmp_path / "fewer", 0.3, seed=0, count=30)
    one, fewer = str(tmp_path / "one"), str(tmp_path / "fewer")
    with pytest.raises(UserError, match=r"of 30.*cannot be compared"):
        comparison.compare([one, fewer])
    with pytest.raises(UserError, match="no predictions of valid, only of"):
        comparison.compare([one], "valid")
    write_run(tmp_path / "classes", 0.3, seed=0, task=Task(kind="regression", neutral="closed"))
    results = json.loads((tmp_path / "classes" / "results.json").read_text())
    results["splits"] = {}
    (tmp_path / "classes" / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match="no predictions of test, only of trials"):
        comparison.compare([str(tmp_path / "classes")])
    seeds = {"seeds": {"seed_0": {"diverged": None}, "seed_1": {"diverged": 7}}}
    write_run(tmp_path / "several" / "seed_0", 0.3, seed=0)
    with pytest.raises(UserError, match="several is not finished"):
        comparison.compare([str(tmp_path / "several")])
    (tmp_path / "several" / "results.json").write_text(json.dumps(seeds))
    with pytest.raises(UserError, match="seed_1 diverged"):
        comparison.compare([str(tmp_path / "several")])
    (tmp_path / "fewer" / "results.json").unlink()
    with pytest.raises(UserError, match="fewer is not finished"):
        comparison.compare([one, fewer])
