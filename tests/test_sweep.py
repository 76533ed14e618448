"""Trials of scalar fields, ranked on validation."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax import sweep, train
from msa_jax.errors import UserError
from tests.conftest import tiny_config
from tests.test_train import ROOT

Write = Callable[..., str]
RATE, DROPOUT = "optimizer.learning_rate", "model.encoder.dropout"


def test_a_grid_is_every_combination() -> None:
    trials = sweep.grid({RATE: (1e-3, 1e-2), DROPOUT: (0.0, 0.1, 0.2)})
    assert len(trials) == len({tuple(trial.values()) for trial in trials}) == 6


def test_draws_stay_in_range_and_are_even_in_the_logarithm() -> None:
    trials = sweep.draw({RATE: (1e-4, 1e-2), DROPOUT: (0.0, 0.5)}, 400, seed=3)
    rates = np.array([trial[RATE] for trial in trials])
    dropouts = np.array([trial[DROPOUT] for trial in trials])
    assert 1e-4 <= rates.min() < rates.max() <= 1e-2
    assert np.mean(rates < 1e-3) == pytest.approx(0.5, abs=0.08)
    assert np.mean(dropouts < 0.25) == pytest.approx(0.5, abs=0.08)
    assert trials == sweep.draw({RATE: (1e-4, 1e-2), DROPOUT: (0.0, 0.5)}, 400, seed=3)
    with pytest.raises(UserError, match="above 0"):
        sweep.draw({RATE: (0.0, 1.0)}, 1)


def test_trials_are_ranked_on_validation(write_features: Write, tmp_path: Path) -> None:
    config = tiny_config("text", write_features(), num_seeds=2, **{"training.epochs": 2})
    trials = sweep.grid({RATE: (1e-6, 3e-2, 1e30)})
    results = sweep.sweep(config, str(tmp_path / "sweep"), trials)
    best, second, last = results["trials"]
    assert best["values"][RATE] == 3e-2, "the only one that learns"
    assert best["mean"] < second["mean"]
    assert last["mean"] is None
    assert len(last["diverged"]) == 2
    losses = []
    for run in best["runs"]:
        member = json.loads((tmp_path / "sweep" / run / "results.json").read_text())
        losses.append(member["splits"]["valid"]["metrics"]["loss"])
    assert best["mean"] == pytest.approx(np.mean(losses))
    assert "diverged" in sweep.table(results)
    assert sweep.sweep(config, str(tmp_path / "sweep"), trials) == results
    with pytest.raises(UserError, match="holds a sweep of other values"):
        sweep.sweep(config, str(tmp_path / "sweep"), sweep.grid({RATE: (1e-3,)}))


def test_an_unfinished_sweep_goes_on_with_its_own_trials_alone(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("text", write_features(), **{"training.epochs": 1})

    class StopError(Exception):
        """The process dies here."""

    def stop(*_: Any) -> None:
        raise StopError

    with monkeypatch.context() as patched:
        patched.setattr(train._Training, "_finish", stop)
        with pytest.raises(StopError):
            sweep.sweep(config, str(tmp_path), sweep.grid({RATE: (1e-3, 1e-2)}))
    rates = (1e-3, 1e-2, 1e-1, 1e-4, 1e-5)
    names = "trial_0_seed_0, trial_1_seed_0"
    for count, other in ((5, rf"{names}, \.\.\., trial_4_seed_0"), (1, "trial_0_seed_0")):
        words = rf"unfinished training of {names}, this would be of {other}\."
        with pytest.raises(UserError, match=words):
            sweep.sweep(config, str(tmp_path), sweep.grid({RATE: rates[:count]}))
    with pytest.raises(UserError, match=r"this would be of a lone run\."):
        train.train_and_evaluate(config, str(tmp_path))
    with pytest.raises(UserError, match=r"config\.optimizer\.learning_rate"):
        sweep.sweep(config, str(tmp_path), sweep.grid({RATE: (1e-3, 1e-1)}))
    assert sweep.sweep(config, str(tmp_path), sweep.grid({RATE: (1e-3, 1e-2)}))["trials"]


def test_a_trial_without_a_figure_ranks_last(write_features: Write, tmp_path: Path) -> None:
    """A model that predicts a constant has no correlation."""
    overrides = {"task.kind": "regression", "training.selection": "corr", "training.epochs": 1}
    config = tiny_config("text", write_features(), **overrides)
    trials = sweep.grid({RATE: (0.0, 1e-2)})
    config.model.encoder.num_layers = 0
    results = sweep.sweep(config, str(tmp_path / "sweep"), trials)
    ranked = [each["mean"] for each in results["trials"]]
    assert all(mean is None or np.isfinite(mean) for mean in ranked)
    judged = {"values": {RATE: 1.0}, "mean": None, "std": None, "runs": ["a"], "diverged": []}
    assert "undefined" in sweep.table({"selection": "valid corr", "trials": [judged]})


def test_a_sweep_and_a_run_do_not_share_a_directory(write_features: Write, tmp_path: Path) -> None:
    config = tiny_config("text", write_features(), **{"training.epochs": 1})
    train.train_and_evaluate(config, str(tmp_path / "run"))
    with pytest.raises(UserError, match="no sweep"):
        sweep.sweep(config, str(tmp_path / "run"), sweep.grid({RATE: (1e-3,)}))
    sweep.sweep(config, str(tmp_path / "sweep"), sweep.grid({RATE: (1e-3,)}))
    with pytest.raises(UserError, match="holds a sweep"):
        train.train_and_evaluate(config, str(tmp_path / "sweep"))


def test_wrong_fields_and_values_are_refused(write_features: Write, tmp_path: Path) -> None:
    config = tiny_config("text", write_features())
    for trial, words in (
        ({"model.encoder.width": 8.0}, "cannot differ"),
        ({"model.encoder.droput": 0.1}, "cannot differ"),
        ({"model.nosuch.dropout": 0.1}, "nosuch"),
        ({DROPOUT: 1.5}, "at most 0.99"),
        ({"optimizer.weight_decay": 0.1}, "adamw"),
    ):
        with pytest.raises(UserError, match=words):
            sweep.sweep(config, str(tmp_path / "sweep"), [trial])
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give --grid or --random"),
        (["--grid=optimizer.learning_rate=fast"], "expected FIELD=NUMBER"),
        (["--random=optimizer.learning_rate=1e-3"], "expected FIELD=LEAST..GREATEST"),
    ],
)
def test_the_command_line_refuses_in_one_line(flags: list[str], words: str) -> None:
    command = [sys.executable, "scripts/sweep.py", "--config=configs/text.py", "--workdir=x"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
