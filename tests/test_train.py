"""Runs from end to end on small data: files, resuming, refusals, evaluation."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from msa_jax import robustness, train
from msa_jax.checkpoints import Checkpoints
from msa_jax.conditions import COMPLETE
from msa_jax.data import prepare
from msa_jax.errors import DivergedError, UserError
from msa_jax.evaluate import Evaluation, restore
from tests.conftest import features, tiny_config

ROOT = Path(__file__).parents[1]
Write = Callable[..., str]


def selected_params(workdir: Path) -> Any:
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            checkpoints.shapes(),
        )
        return checkpoints.restore_selected(abstract)


def evaluate(workdir: str, split: str = "test", **data: str) -> Evaluation:
    return restore(workdir, split, **data).evaluate()


def assert_same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("system", ["text", "late", "early", "attention"])
@pytest.mark.parametrize("kind", ["three_class", "seven_class", "regression"])
def test_every_system_trains_on_every_task(
    write_features: Write, tmp_path: Path, system: str, kind: str
) -> None:
    config = tiny_config(system, write_features(), **{"task.kind": kind, "training.epochs": 1})
    results = train.train_and_evaluate(config, str(tmp_path / "run"))
    for split in ("valid", "test"):
        report = results["splits"][split]
        assert report["n"] == 20
        keys = set(report["metrics"]) - {"loss"}
        assert keys == set(report["intervals"])
        expected = {
            "regression": {"mae", "corr", "acc7", "acc5", "acc3", "acc2_has0", "f1_has0"}
            | {"acc2_non0", "f1_non0"}
        }.get(kind, {"accuracy", "macro_f1", "weighted_f1", "balanced_accuracy"})
        assert keys == expected
        for row in report["baselines"].values():
            assert set(row) == expected
    assert ("weights" in report) == (system == "attention")


def test_a_run_leaves_the_promised_files(write_features: Write, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    results = train.train_and_evaluate(tiny_config("attention", write_features()), str(workdir))
    assert json.loads((workdir / "config.json").read_text())["model"]["name"] == "attention"
    on_disk = json.loads((workdir / "results.json").read_text())
    assert on_disk["splits"]["test"]["metrics"] == results["splits"]["test"]["metrics"]
    for key in ("dataset", "task", "step", "seconds", "examples_per_second"):
        assert key in on_disk
    history = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in history] == [4, 8, 12]
    assert {"train_loss", "train_accuracy", "valid_loss", "valid_accuracy"} <= set(history[0])
    best = min(history, key=lambda entry: entry["valid_loss"])
    assert on_disk["step"] == best["step"]
    assert on_disk["splits"]["valid"]["metrics"]["loss"] == pytest.approx(best["valid_loss"])
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(workdir.glob("events.out.tfevents*"))
    assert not [p for p in workdir.iterdir() if p.name.startswith(".")], "no half-written file"


def test_the_same_command_again_says_it_is_finished(
    write_features: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, workdir = tiny_config("text", write_features()), str(tmp_path / "run")
    first = train.train_and_evaluate(config, workdir)
    before = (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns
    again = train.train_and_evaluate(config, workdir)
    assert "is finished" in capsys.readouterr().out
    assert again["splits"] == json.loads(json.dumps(first["splits"]))
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_config_or_other_data_are_refused(write_features: Write, tmp_path: Path) -> None:
    path, workdir = write_features(), str(tmp_path / "run")
    train.train_and_evaluate(tiny_config("text", path, **{"training.epochs": 1}), workdir)
    changed = tiny_config("text", path, **{"training.epochs": 2, "seed": 7})
    with pytest.raises(UserError) as error:
        train.train_and_evaluate(changed, workdir)
    assert "config.training.epochs: 1 there, 2 now" in str(error.value)
    assert "config.seed: 0 there, 7 now" in str(error.value)
    write_features(audio=np.ones((100, 3), np.float32))
    with pytest.raises(UserError, match="was trained on utterances/"):
        train.train_and_evaluate(tiny_config("text", path, **{"training.epochs": 1}), workdir)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"training.selection": "acuracy"}, "'acuracy' is no metric.*Did you mean 'accuracy'"),
        ({"data.modalities": ("text", "smell")}, "no modality 'smell'"),
        ({"data.path": "nowhere.npz"}, "cannot read .*nowhere.npz"),
        ({"init.encoders": ("nowhere",)}, "nowhere.* does not exist"),
        ({"training.accumulate": 3, "training.batch_size": 8}, "not a multiple"),
    ],
)
def test_bad_requests_write_nothing(
    write_features: Write, tmp_path: Path, overrides: dict[str, Any], words: str
) -> None:
    config = tiny_config("early", write_features(), **overrides)
    with pytest.raises(UserError, match=words):
        train.train_and_evaluate(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_same_seed_same_bits_other_seed_other_run(write_features: Write, tmp_path: Path) -> None:
    path = write_features()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train.train_and_evaluate(tiny_config("early", path, seed=seed), str(tmp_path / name))
    assert_same(selected_params(tmp_path / "a"), selected_params(tmp_path / "b"))
    kernel = [selected_params(tmp_path / n)["classifier"]["logits"]["kernel"] for n in ("a", "c")]
    assert not np.array_equal(*kernel)


class _StopError(Exception):
    pass


def test_resumed_equals_uninterrupted(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("attention", write_features(), **{"training.accumulate": 2})
    expected = train.train_and_evaluate(config, str(tmp_path / "whole"))
    evaluations = 0
    original = train._Training._evaluate

    def stop_at_the_second(self: Any, *args: Any) -> Any:
        nonlocal evaluations
        evaluations += 1
        if evaluations == 2:
            raise _StopError
        return original(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(train._Training, "_evaluate", stop_at_the_second)
        with pytest.raises(_StopError):
            train.train_and_evaluate(config, str(tmp_path / "stopped"))
    resumed = train.train_and_evaluate(config, str(tmp_path / "stopped"))
    assert resumed["splits"] == expected["splits"]
    assert_same(selected_params(tmp_path / "whole"), selected_params(tmp_path / "stopped"))
    histories = [
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("whole", "stopped")
    ]
    for a, b in zip(*histories, strict=True):
        for timing in ("seconds", "examples_per_second"):
            a.pop(timing), b.pop(timing)
        assert a == b


def test_early_stopping(write_features: Write, tmp_path: Path) -> None:
    overrides = {"training.patience": 2, "training.epochs": 40, "optimizer.learning_rate": 0.05}
    config = tiny_config("text", write_features(), **overrides)
    results = train.train_and_evaluate(config, str(tmp_path / "run"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])["step"]
    assert last < 160
    assert last == results["step"] + 2 * 4


def test_divergence_is_reported(write_features: Write, tmp_path: Path) -> None:
    overrides = {"optimizer.learning_rate": 1e30, "optimizer.clip_norm": 0.0}
    config = tiny_config("early", write_features(), **overrides)
    with pytest.raises(DivergedError, match="learning_rate"):
        train.train_and_evaluate(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("sources", [("late",), ("text", "audio", "vision")])
def test_pretrained_encoders(
    write_features: Write, tmp_path: Path, freeze: bool, sources: tuple[str, ...]
) -> None:
    path = write_features()
    for name in sources:
        train.train_and_evaluate(tiny_config(name, path), str(tmp_path / name))
    workdirs = tuple(str(tmp_path / name) for name in sources)
    overrides = {"init.encoders": workdirs, "init.freeze": freeze, "training.epochs": 1}
    overrides |= {"optimizer.name": "adamw", "optimizer.weight_decay": 0.1}
    if not freeze:
        overrides |= {"optimizer.learning_rate": 0.0, "optimizer.weight_decay": 0.0}
    train.train_and_evaluate(tiny_config("attention", path, **overrides), str(tmp_path / "a2"))
    fused = selected_params(tmp_path / "a2")
    for modality in ("text", "audio", "vision"):
        source = tmp_path / (modality if len(sources) > 1 else "late")
        name = f"encoders_{modality}"
        assert_same(fused[name], selected_params(source)[name])


def test_pretrained_encoders_that_do_not_fit_are_named(
    write_features: Write, tmp_path: Path
) -> None:
    path, source = write_features(), str(tmp_path / "text")
    train.train_and_evaluate(tiny_config("text", path, **{"training.epochs": 1}), source)
    early = tiny_config("early", path, **{"init.encoders": (source,)})
    with pytest.raises(UserError, match="no encoder of audio, vision"):
        train.train_and_evaluate(early, str(tmp_path / "a"))
    twice = tiny_config("text", path, **{"init.encoders": (source, source)})
    with pytest.raises(UserError, match="one run for each modality"):
        train.train_and_evaluate(twice, str(tmp_path / "b"))
    wide = tiny_config("text", path, **{"init.encoders": (source,), "model.encoder.width": 16})
    with pytest.raises(UserError, match=r"encoders_text/project/kernel: \[5, 8\].*\[5, 16\]"):
        train.train_and_evaluate(wide, str(tmp_path / "c"))
    scanned = {"init.encoders": (source,), "model.encoder.layers": "scanned"}
    missing = r"encoders_text/layers/\S*: missing(.|\n)*layer_0/\S*: not in the model(.|\n)*Use the"
    with pytest.raises(UserError, match=missing):
        train.train_and_evaluate(tiny_config("text", path, **scanned), str(tmp_path / "d"))
    none = {"init.encoders": (source,), "model.encoder.kernel": 0, "model.encoder.num_layers": 0}
    none |= {"model.encoder.positions": "none", "model.encoder.norm": "post"}
    with pytest.raises(UserError, match=r"project/kernel: not in the model(.|\n)*Use the same"):
        train.train_and_evaluate(tiny_config("text", path, **none), str(tmp_path / "e"))


def test_evaluation_needs_the_directory_alone(write_features: Write, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    config = tiny_config("attention", write_features(), **{"training.eval_batch_size": 7})
    results = train.train_and_evaluate(config, str(workdir))
    (workdir / "config.json").unlink()
    out, predictions = tmp_path / "new" / "test.json", tmp_path / "test.csv"
    command = [sys.executable, "scripts/evaluate.py", f"--workdir={workdir}", "--split=test"]
    command += [f"--out={out}", f"--predictions={predictions}"]
    subprocess.run(command, check=True, cwd=ROOT, timeout=300, capture_output=True)
    report = json.loads(out.read_text())
    assert report["metrics"] == pytest.approx(results["splits"]["test"]["metrics"], abs=1e-6)
    assert report["baselines"] == results["splits"]["test"]["baselines"]
    rows = list(csv.DictReader(predictions.read_text().splitlines()))
    assert [row["id"] for row in rows] == features()["id"][80:].tolist()
    hits = [row["label"] == row["prediction"] for row in rows]
    assert np.mean(hits) == pytest.approx(report["metrics"]["accuracy"])
    for row in rows:
        names = ("negative", "neutral", "positive")
        probabilities = {n: float(row[f"probability_{n}"]) for n in names}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert max(probabilities, key=probabilities.__getitem__) == row["prediction"]
        weights = [float(row[f"weight_{m}"]) for m in ("text", "audio", "vision")]
        assert sum(weights) == pytest.approx(1, abs=1e-5)


def test_a_run_goes_on_without_its_small_files(write_features: Write, tmp_path: Path) -> None:
    path, workdir = write_features(), tmp_path / "run"
    expected = train.train_and_evaluate(tiny_config("early", path), str(workdir))
    (workdir / "results.json").unlink()
    (workdir / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.seed: 0 there, 1 now"):
        train.train_and_evaluate(tiny_config("early", path, seed=1), str(workdir))
    (workdir / "metrics.jsonl").write_text('{"step": ')
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged"):
        train.train_and_evaluate(tiny_config("early", path), str(workdir))
    (workdir / "metrics.jsonl").unlink()
    again = train.train_and_evaluate(tiny_config("early", path), str(workdir))
    assert again["splits"] == expected["splits"]
    assert json.loads((workdir / "results.json").read_text())["seconds"] is None
    told = train.train_and_evaluate(tiny_config("early", path), str(workdir))
    assert told["splits"] == again["splits"]


def test_a_finished_run_needs_neither_data_nor_devices(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, workdir = write_features(), tmp_path / "run"
    expected = train.train_and_evaluate(tiny_config("early", path), str(workdir))
    monkeypatch.setattr(train.dataset, "load", None)
    monkeypatch.setattr(train.sharding, "build_mesh", None)
    Path(path).unlink()
    again = train.train_and_evaluate(tiny_config("early", path), str(workdir))
    assert again["splits"] == expected["splits"]


def test_evaluation_needs_no_source_file(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(write_features())
    monkeypatch.chdir(tmp_path)
    config = tiny_config("text", path.name)
    results = train.train_and_evaluate(config, str(tmp_path / "run"))
    monkeypatch.chdir(ROOT)
    path.unlink()
    report = evaluate(str(tmp_path / "run")).report()
    assert report["metrics"] == pytest.approx(results["splits"]["test"]["metrics"], abs=1e-6)
    assert report["data"]["text"]["longest"] == 6


def test_class_weights_do_not_change_what_is_logged(write_features: Write, tmp_path: Path) -> None:
    overrides = {"task.class_weights": "balanced", "training.batch_size": 60}
    overrides |= {"optimizer.learning_rate": 0.0, "training.epochs": 1}
    no_dropout = {"model.encoder.dropout": 0.0, "model.classifier.dropout": 0.0}
    config = tiny_config("early", write_features(), **overrides, **no_dropout)
    train.train_and_evaluate(config, str(tmp_path / "run"))
    (logged,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    shown = evaluate(str(tmp_path / "run"), "train").metrics()
    assert logged["train_loss"] == pytest.approx(shown["loss"], rel=1e-5)
    assert logged["train_accuracy"] == pytest.approx(shown["accuracy"])


def test_scores_on_another_scale_are_refused(write_features: Write, tmp_path: Path) -> None:
    small = features()["score"] / 10
    with pytest.raises(UserError, match=r"all 60 .* are 'neutral'.*-0\.3 to 0\.3.*Scale"):
        train.train_and_evaluate(tiny_config("text", write_features(score=small)), str(tmp_path))
    assert not (tmp_path / "config.json").exists()


def test_evaluation_on_other_data(write_features: Write, tmp_path: Path) -> None:
    config = tiny_config("text", write_features(), **{"task.kind": "regression"})
    train.train_and_evaluate(config, str(tmp_path / "run"))
    only_test = write_features("other.npz", count=30, split=np.array(["test"] * 30))
    evaluation = evaluate(str(tmp_path / "run"), "test", data_path=only_test)
    assert len(evaluation.split) == 30
    prepare.prepare(only_test, "others", "")
    named = evaluate(str(tmp_path / "run"), "test", data_name="others")
    np.testing.assert_array_equal(named.predictions.outputs, evaluation.predictions.outputs)
    folds = np.array(["test"] * 10 + ["valid"] * 20)
    other_column = write_features("folds.npz", count=30, split=None, fold=folds)
    by_fold = evaluate(str(tmp_path / "run"), "test", data_path=other_column, split_column="fold")
    assert len(by_fold.split) == 10
    table = evaluation.table().to_csv(evaluation.task).splitlines()
    assert table[0] == "id,video_id,score,prediction"
    narrow = write_features("narrow.npz", text=np.zeros((100, 6, 2), np.float32))
    with pytest.raises(UserError, match=r"text has 2 feature channels.*trained on 5"):
        evaluate(str(tmp_path / "run"), "test", data_path=narrow)
    with pytest.raises(UserError, match=r"'tset' is not a split|--split=tset.*'test'"):
        evaluate(str(tmp_path / "run"), "tset")


def test_batch_size_of_evaluation_changes_no_prediction(
    write_features: Write, tmp_path: Path
) -> None:
    path, outputs = write_features(), []
    for size in (5, 64):
        config = tiny_config("attention", path, **{"training.eval_batch_size": size})
        train.train_and_evaluate(config, str(tmp_path / str(size)))
        outputs.append(evaluate(str(tmp_path / str(size))).predictions.outputs)
    np.testing.assert_allclose(*outputs, atol=1e-6)


def test_split_column_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="split_column=fold chooses the splits of --data_path"):
        restore(str(tmp_path), split_column="fold")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers"), [("bc_lstm", 0), ("attention", 1)])
def test_a_model_of_whole_videos_trains_and_is_restored(
    name: str, layers: int, write_features: Write, tmp_path: Path
) -> None:
    names = np.repeat([f"video{i}" for i in range(100)], np.arange(100) % 5 + 1)[:100]
    overrides = {
        "model.context.kind": "recurrent",
        "model.context.width": 8,
        "model.encoder.num_layers": layers,
        "data.modalities": ("text", "vision"),
        "task.kind": "regression",
        "training.batch_size": 4,
        "training.eval_batch_size": 4,
    }
    path = write_features(video_id=names, segment=np.arange(100))
    config = tiny_config(name, path, **overrides)
    results = train.train_and_evaluate(config, str(tmp_path / "lone"))
    assert results["splits"]["test"]["n"] == 20
    assert results["dataset"]["utterances_a_video"][-1] == 5
    table = evaluate(str(tmp_path / "lone")).table()
    assert table.ids == [f"video{i // 4}[{i % 4}]" for i in range(80, 100)]
    mae = np.abs(table.outputs[:, 0] - table.scores).mean()
    assert mae == pytest.approx(results["splits"]["test"]["metrics"]["mae"], rel=1e-5)
    whole = robustness.measure("lone", restore(str(tmp_path / "lone")), (0,))
    assert whole.metrics[COMPLETE][0]["mae"] == pytest.approx(mae, rel=1e-5)
    two = str(tmp_path / "two")
    train.train_and_evaluate(tiny_config(name, path, **overrides, num_seeds=2), two)
    first = evaluate(f"{two}/seed_0").table()
    np.testing.assert_allclose(first.outputs, table.outputs, atol=1e-4)
    with pytest.raises(UserError, match=r"accumulate=2 would cut videos apart"):
        train.train_and_evaluate(
            tiny_config(name, path, **overrides, **{"training.accumulate": 2}),
            str(tmp_path / "cut"),
        )
