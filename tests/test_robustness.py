"""Incomplete input: what is taken away, from which utterances, and what the report says of it."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from msa_jax import conditions, evaluate, metrics, robustness, train, workdir
from msa_jax.conditions import COMPLETE, Condition
from msa_jax.data import buckets, feed, order
from msa_jax.errors import UserError
from msa_jax.report import html, markdown
from msa_jax.report import robustness as robustness_report
from msa_jax.robustness import Measured
from msa_jax.sharding import over_data
from msa_jax.tasks import Task
from tests.conftest import features, random_batch, tiny_config

ROOT = Path(__file__).parents[1]
MODALITIES = ("text", "audio", "vision")
Write = Callable[..., str]


def corrupted(batch: Any, condition: Condition, rows: Any = None, seed: int = 0) -> Any:
    rows = np.arange(len(batch["score"]), dtype=np.int32) if rows is None else rows
    modalities = [m for m in MODALITIES if m in batch]
    luck = conditions.draw(seed, rows, {m: batch[m].shape for m in modalities})
    pattern = conditions.pattern(condition, modalities)
    return jax.tree.map(np.asarray, conditions.corrupt(batch, luck, pattern, modalities))


def masks(batch: Any) -> dict[str, np.ndarray]:
    return {m: np.asarray(batch[f"{m}_mask"]) for m in MODALITIES if m in batch}


@pytest.fixture(scope="module")
def batch() -> Any:
    batch = random_batch(size=1000)
    batch["audio_mask"][:300] = False
    return batch


def test_the_complete_condition_changes_no_bit(batch: Any) -> None:
    same = corrupted(batch, COMPLETE)
    assert same.keys() == batch.keys()
    for name in batch:
        np.testing.assert_array_equal(same[name], batch[name])


def test_frames_missing_at_rising_rates_are_nested_and_all_may_go(batch: Any) -> None:
    before = masks(batch)
    for rate in conditions.FRAME_RATES[1:]:
        after = masks(corrupted(batch, Condition(frame_rate=rate, frames_of=MODALITIES)))
        for m in MODALITIES:
            assert not (after[m] & ~before[m]).any()
            real = batch[f"{m}_mask"]
            assert after[m].sum() / real.sum() == pytest.approx(1 - rate, abs=0.05)
        before = after
    assert not all(mask.any(axis=1).all() for mask in after.values())
    nothing_left = ~np.stack([mask.any(axis=1) for mask in after.values()]).any(axis=0)
    assert nothing_left.any(), "an utterance may lose all that it has"


def test_only_the_named_modalities_lose_frames(batch: Any) -> None:
    after = masks(corrupted(batch, Condition(frame_rate=0.5, frames_of=("text",))))
    for m in ("audio", "vision"):
        np.testing.assert_array_equal(after[m], batch[f"{m}_mask"])
    assert after["text"].sum() < batch["text_mask"].sum()


def test_modalities_missing_leave_one_and_are_whole(batch: Any) -> None:
    rate = 0.6
    after = masks(corrupted(batch, Condition(modality_rate=rate)))
    kept = np.stack([mask.any(axis=1) for mask in after.values()])
    assert kept.any(axis=0).all()
    for i, m in enumerate(MODALITIES):
        np.testing.assert_array_equal(after[m], batch[f"{m}_mask"] & kept[i][:, None])
    whole = np.arange(1000) >= 300
    assert kept[:, whole].mean() == pytest.approx(1 - rate + rate**3 / 3, abs=0.03)
    without_audio = masks(corrupted(batch, Condition(modality_rate=rate, absent=("audio",))))
    assert not without_audio["audio"].any()
    assert np.stack([mask.any(axis=1) for mask in without_audio.values()]).any(axis=0).all()


def test_noise_has_the_deviation_asked_and_grows_from_the_same_draw(batch: Any) -> None:
    one, two = (corrupted(batch, Condition(noise=sd)) for sd in (1.0, 2.0))
    for m in MODALITIES:
        added = one[m] - batch[m]
        assert added.std() == pytest.approx(1.0, abs=0.05)
        np.testing.assert_allclose(two[m] - batch[m], 2 * added, atol=1e-4)
        np.testing.assert_array_equal(one[f"{m}_mask"], batch[f"{m}_mask"])


def test_a_row_meets_the_same_whoever_stands_beside_it_and_whatever_the_padding(batch: Any) -> None:
    condition = Condition(modality_rate=0.3, frame_rate=0.4, frames_of=MODALITIES, noise=0.5)
    whole = corrupted(batch, condition)
    rows = np.array([7, 900, 3, -1], np.int32)
    few = {name: array[rows] for name, array in batch.items() if not name.startswith("vision")}
    few["text"] = np.pad(few["text"], ((0, 0), (0, 5), (0, 0)))
    few["text_mask"] = np.pad(few["text_mask"], ((0, 0), (0, 5)))
    # Without vision it may decide otherwise which modality stays: frames and noise alone are asked.
    alone = dataclasses.replace(condition, modality_rate=0.0)
    expected, part = corrupted(batch, alone), corrupted(few, alone, rows)
    for m in ("text", "audio"):
        length = batch[m].shape[1]
        for name in (m, f"{m}_mask"):
            np.testing.assert_array_equal(part[name][:3, :length], expected[name][rows[:3]])
    same = corrupted({name: array[rows] for name, array in batch.items()}, condition, rows)
    for name in whole:
        np.testing.assert_array_equal(same[name][:3], whole[name][rows[:3]])


def test_mask_seeds_rows_and_modalities_draw_apart(batch: Any) -> None:
    shapes = {"text": (4, 9, 2), "audio": (4, 9, 2)}
    lucks = [conditions.draw(seed, np.arange(4), shapes) for seed in (0, 1)]
    drawn = [np.asarray(luck.frames[m]) for luck in lucks for m in shapes]
    drawn += [np.asarray(luck.modalities[m]) for luck in lucks for m in shapes]
    numbers = np.concatenate([each.reshape(-1) for each in drawn])
    assert len(np.unique(numbers)) == len(numbers)


def test_curves_that_cannot_fall_are_left_out() -> None:
    assert list(conditions.curves(("text",))) == ["frames_text", "frames_all", "noise"]
    assert list(conditions.curves(("audio",))) == ["frames_others", "frames_all", "noise"]
    assert list(conditions.curves(MODALITIES)) == [
        "frames_text",
        "frames_others",
        "frames_all",
        "modalities",
        "noise",
    ]
    assert len(conditions.subsets(MODALITIES)) == 7
    assert conditions.subsets(MODALITIES)[MODALITIES] == COMPLETE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trained run on ragged sequences, in which some utterances lack vision."""
    folder = tmp_path_factory.mktemp("robustness")
    np.savez(folder / "features.npz", **features())
    overrides = {"training.epochs": 1, "data.buckets": 2}
    config = tiny_config("attention", str(folder / "features.npz"), **overrides)
    train.train_and_evaluate(config, str(folder / "run"))
    return str(folder / "run")


@pytest.fixture(scope="module")
def restored(run: str) -> evaluate.Restored:
    return evaluate.restore(run)


def test_the_complete_condition_is_plain_evaluation(restored: evaluate.Restored, run: str) -> None:
    (outputs,) = robustness.predict(restored, [(COMPLETE, 0)])
    plain = restored.evaluate()
    np.testing.assert_allclose(outputs, plain.predictions.outputs, atol=1e-6)
    measured = robustness.measure(run, restored)
    expected = plain.metrics()
    (found,) = measured.metrics[COMPLETE]
    assert found == {name: expected[name] for name in found}


def test_batch_size_and_buckets_change_no_mask(restored: evaluate.Restored) -> None:
    hard = Condition(modality_rate=0.3, frame_rate=0.5, frames_of=MODALITIES, noise=1.0)
    asked = [(hard, 0), (hard, 1), (hard, 2)]
    expected = robustness.predict(restored, asked)
    assert not np.allclose(expected[0], expected[1], atol=1e-3), "mask seeds differ"
    units = restored.split.units(of_videos=False)
    grouped = buckets.fit(units, 1)
    other = dataclasses.replace(
        restored,
        feed=feed.build(
            restored.split,
            restored.system.task,
            grouped,
            over_data(restored.mesh),
            how="stream",
        ),
        plan=order.EvalOrder(units, grouped, 7),
    )
    assert len(other.plan) != len(restored.plan)
    np.testing.assert_allclose(robustness.predict(other, asked), expected, atol=1e-5)


@pytest.mark.parametrize("kept", MODALITIES)
def test_a_subset_is_data_that_lack_the_others(
    restored: evaluate.Restored, kept: str, write_features: Write, run: str
) -> None:
    changes: dict[str, Any] = {"text_length": np.zeros(100, int)} if kept != "text" else {}
    if kept != "audio":
        changes["audio_length"] = np.zeros(100, int)
        changes["audio"] = np.zeros((100, 1, 3), np.float32)
    if kept != "vision":
        changes["vision_length"] = np.zeros(100, int)
    other = evaluate.restore(run, data_path=write_features(**changes)).evaluate()
    condition = conditions.subsets(MODALITIES)[(kept,)]
    (outputs,) = robustness.predict(restored, [(condition, 0)])
    np.testing.assert_allclose(outputs, other.predictions.outputs, atol=1e-5)


def measured(
    accuracies: dict[Condition, list[float]], scores: Any = (-2.0, 0.0, 2.0), **changes: Any
) -> Measured:
    """A run of the given accuracies, 0.9 under other conditions, beside a constant of 0.7."""
    every = [*conditions.subsets(MODALITIES).values()]
    every += [
        c for each in conditions.curves(MODALITIES).values() for c in each.conditions.values()
    ]
    found = {c: [{"accuracy": 0.9, "macro_f1": 0.5}] for c in every}
    found |= {
        c: [{"accuracy": a, "macro_f1": a / 2} for a in each] for c, each in accuracies.items()
    }
    return Measured(
        **{
            "workdir": "run",
            "step": 1,
            "fingerprint": "data",
            "split": "test",
            "task": Task(kind="three_class"),
            "modalities": MODALITIES,
            "scores": np.asarray(scores),
            "baselines": {"majority": {"accuracy": 0.7, "macro_f1": 0.3}},
            "metrics": found,
            **changes,
        }
    )


def test_the_report_names_points_below_the_constant() -> None:
    worst = Condition(frame_rate=0.9, frames_of=MODALITIES)
    alone = conditions.subsets(MODALITIES)[("vision",)]
    equal = Condition(modality_rate=0.7)
    falling = measured({worst: [0.5, 0.6, 0.7], alone: [0.69], equal: [0.7, 0.7, 0.7]})
    report = robustness.report({"falls": [falling], "stands": [measured({})]}, (0, 1, 2))
    assert report["constant"] == {"accuracy": 0.7}
    assert report["models"]["stands"]["below_constant"] == []
    vision, frames = report["models"]["falls"]["below_constant"]
    assert (vision["place"], vision["modalities"]) == ("subsets", ["vision"])
    assert (frames["place"], frames["level"], frames["metric"]) == ("frames_all", 0.9, "accuracy")
    assert frames["value"] == pytest.approx(0.6)
    curve = report["models"]["falls"]["curves"]["frames_all"]
    assert curve["points"][-1]["std_masks"]["accuracy"] == pytest.approx(0.1)
    assert curve["points"][0]["std_masks"]["accuracy"] == 0
    assert curve["area"]["accuracy"] == pytest.approx((8.5 * 0.9 + 0.5 * 0.6) / 9)
    assert "area" not in report["models"]["falls"]["curves"]["noise"]
    shown = robustness_report.document(report)
    for text in (markdown.render(shown), html.render(shown)):
        assert "no point falls below the constant predictor" in text
        assert "vision alone" in text
    text = "\n".join(robustness_report.lines(report))
    assert "below the constant predictor: frames missing: 0.9, accuracy (%) 60.0" in text


def test_seeds_are_averaged_and_each_is_judged() -> None:
    hard = Condition(noise=4.0)
    seeds = [measured({hard: [0.6, 0.64, 0.68]}), measured({hard: [0.8, 0.84, 0.88]})]
    part = robustness.report({"seeds": seeds}, (0, 1, 2))["models"]["seeds"]
    point = part["curves"]["noise"]["points"][-1]
    assert point["metrics"]["accuracy"] == pytest.approx(0.74)
    assert point["std_masks"]["accuracy"] == pytest.approx(0.04)
    assert point["std_runs"]["accuracy"] == pytest.approx(0.2 / np.sqrt(2))
    (fallen,) = part["below_constant"]
    assert (fallen["runs_below"], fallen["runs"]) == (1, 2)


def test_regression_is_judged_by_error_and_by_sign() -> None:
    task, scores = Task(kind="regression"), np.array([-2.0, -1.0, 0.5, 2.0])
    fitted = metrics.fit_baselines(task, np.array([-1.0, 1.0, 2.0]))
    wrong = metrics.regression(scores, -scores)
    good = metrics.regression(scores, scores)
    right = measured({}, scores)
    found = {c: [wrong if c.noise == 4 else good] for c in right.metrics}
    changes = {"task": task, "baselines": metrics.of_baselines(task, fitted, scores)}
    report = robustness.report({"m": [measured({}, scores, metrics=found, **changes)]}, (0,))
    fallen = report["models"]["m"]["below_constant"]
    assert [(e["place"], e["level"], e["metric"]) for e in fallen] == [
        ("noise", 4.0, "mae"),
        ("noise", 4.0, "acc2_has0"),
    ]
    assert "mean absolute error" in markdown.render(robustness_report.document(report))


def test_runs_of_other_tasks_or_utterances_do_not_stand_side_by_side() -> None:
    one = measured({})
    for other in (measured({}, [1.0, 2.0]), measured({}, task=Task(kind="seven_class"))):
        with pytest.raises(UserError, match="cannot stand side by side"):
            robustness.report({"a": [one], "b": [other]}, (0,))


def test_directories_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    assert workdir.names(["x/a", "x/b"]) == {"a": "x/a", "b": "x/b"}
    assert list(workdir.names(["x/a/run", "x/b/run"])) == ["a/run", "b/run"]
    with pytest.raises(UserError, match="given twice"):
        workdir.names(["x/a", "x/../x/a/"])
    for seed in (10, 9, 8):
        (tmp_path / f"seed_{seed}").mkdir()
    with pytest.raises(UserError, match="no seed is finished"):
        workdir.runs(str(tmp_path))
    for seed in (10, 9):
        (tmp_path / f"seed_{seed}" / "results.json").write_text("{}")
    assert workdir.runs(str(tmp_path)) == [str(tmp_path / f"seed_{s}") for s in (9, 10)]
    assert workdir.runs(str(tmp_path / "seed_9")) == [str(tmp_path / "seed_9")]


def script(*flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "scripts/robustness.py", *flags]
    return subprocess.run(command, cwd=ROOT, timeout=600, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command_measures_runs_side_by_side(run: str, tmp_path: Path) -> None:
    seeds = tmp_path / "seeds"
    for seed in range(2):
        (seeds / f"seed_{seed}").mkdir(parents=True)
        for name in ("checkpoints", "results.json"):
            (seeds / f"seed_{seed}" / name).symlink_to(Path(run) / name)
    out = tmp_path / "out"
    done = script(f"--workdir={run}", f"--workdir={seeds}", f"--out={out}", "--mask_seeds=1")
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "robustness.json").read_text())
    assert list(report["models"]) == ["run", "seeds"]
    assert len(report["models"]["seeds"]["runs"]) == 2
    one, two = (report["models"][name]["curves"] for name in ("run", "seeds"))
    for name in conditions.curves(MODALITIES):
        for a, b in zip(one[name]["points"], two[name]["points"], strict=True):
            assert a["metrics"] == pytest.approx(b["metrics"])
            assert b["std_runs"]["accuracy"] == pytest.approx(0, abs=1e-12)
    assert "<img" in (out / "robustness.html").read_text()
    for figure in ("curves_accuracy", "subsets_accuracy_0", "subsets_accuracy_1"):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert f"figures/{figure}.png" in (out / "robustness.md").read_text()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert "constant predictor on test" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workdir=nowhere"], "nowhere/checkpoints does not exist"),
        (["--workdir=RUN", "--split=tset"], "--split=tset is not a split"),
        (["--workdir=RUN", "--mask_seeds=0"], "--mask_seeds=0: expected at least 1"),
        (["--workdir=RUN", "--workdir=RUN"], "is given twice"),
    ],
)
def test_a_bad_request_ends_with_one_line(
    run: str, tmp_path: Path, flags: list[str], words: str
) -> None:
    out = tmp_path / "out"
    done = script(*(flag.replace("RUN", run) for flag in flags), f"--out={out}")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    assert words in line
    assert "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.slow
def test_training_with_things_missing_keeps_every_point_above_the_constant(tmp_path: Path) -> None:
    count, rng = 500, np.random.default_rng(0)
    arrays = features(count)
    # Half of all are neutral, and every frame of every modality says a little.
    arrays["score"] = rng.choice([-2, 0, 0, 2], count).astype(np.float32)
    for m, length in (("text", 12), ("audio", 12)):
        arrays[m] = rng.standard_normal((count, length, 4)).astype(np.float32)
        arrays[f"{m}_length"] = rng.integers(6, length + 1, count)
        arrays[m][..., 0] += arrays["score"][:, None]
    arrays["vision_table"] = rng.standard_normal((count, 4)).astype(np.float32)
    arrays["vision_table"][:, 0] += arrays["score"]
    arrays["vision_ids"], arrays["vision_length"] = np.arange(count)[:, None], np.ones(count, int)
    np.savez(tmp_path / "features.npz", **arrays)
    parts = {}
    for name, rates in (
        ("plain", {}),
        ("dropped", {"augment.modality_dropout": 0.5, "augment.frame_dropout": 0.5}),
    ):
        overrides = {"training.epochs": 15, "optimizer.learning_rate": 1e-2, "data.buckets": 1}
        config = tiny_config("attention", str(tmp_path / "features.npz"), **overrides | rates)
        train.train_and_evaluate(config, str(tmp_path / name))
        run = robustness.measure(name, evaluate.restore(str(tmp_path / name)))
        parts[name] = robustness.report({name: [run]}, robustness.MASK_SEEDS)["models"][name]
    assert parts["dropped"]["below_constant"] == []
    areas = {n: part["curves"]["modalities"]["area"]["accuracy"] for n, part in parts.items()}
    assert areas["dropped"] > areas["plain"]
