"""The reproduction: what is trained, what is said of it, and that it goes on where it stopped."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax import config as config_lib
from msa_jax import judgement, metrics, predictions, reproduce, train
from msa_jax.data import dataset
from msa_jax.errors import UserError
from msa_jax.report import html, markdown, reproduction
from msa_jax.tasks import Task
from tests.conftest import features, tiny_config

Write = Callable[..., str]
MODALITIES = ("text", "audio", "vision")


def _systems(path: str, workdir: Path, seeds: int = 2, **overrides: Any) -> Any:
    def load(name: str) -> Any:
        return tiny_config(name, path, num_seeds=seeds)

    overrides = {"training.epochs": 1, **overrides}
    return reproduce.systems(load, MODALITIES, overrides, str(workdir))


def _page(report: Any, workdir: Path, systems: Any) -> Any:
    histories = {
        each.name: reproduce.histories(str(workdir), each.name)
        for each in systems
        if each.config is not None
    }
    return reproduction.document(report, histories)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small reproduction on three classes, with two seeds."""
    workdir = tmp_path_factory.mktemp("reproduction")
    path = str(workdir / "features.npz")
    np.savez(path, **features(100))
    systems = _systems(path, workdir)
    return workdir, systems, reproduce.reproduce(systems, str(workdir), lambda _: None)


def test_every_system_of_the_paper_is_there(finished: Any) -> None:
    _, _, report = finished
    tables = {name: each["table"] for name, each in report["systems"].items()}
    assert tables == {
        **dict.fromkeys(MODALITIES, 1),
        **dict.fromkeys(("late", "early", "attention"), 2),
        **dict.fromkeys(("early_pretrained", "attention_pretrained"), 2),
        **dict.fromkeys(("daf", "daf_uniform"), 3),
    }
    weights = report["systems"]["daf"]["splits"]["test"]["weights"]
    assert set(weights) == {"text", "audio"}
    assert report["systems"]["attention_pretrained"]["paper"] == 72.39
    for each in report["systems"].values():
        assert each["splits"]["test"]["n"] == 20
        assert np.sum(each["splits"]["test"]["confusion"]) == 2 * 20
        assert "other_bins" in each["splits"]["test"]
    weights = report["systems"]["attention"]["splits"]["test"]["weights"]
    assert sum(weights[m]["all"]["mean"] for m in MODALITIES) == pytest.approx(1, abs=1e-4)


def test_the_vote_is_that_of_the_trained_modalities(finished: Any) -> None:
    workdir, systems, report = finished
    task, accuracies = Task(kind="three_class"), []
    (whole,) = [system.config for system in systems if system.name == "attention"]
    lengths = dataset.load(config_lib.resolve(whole).data).splits["test"].lengths
    present = np.stack([lengths[m] > 0 for m in MODALITIES])
    assert not present.all(), "some utterances should lack a modality here"
    for seed in ("seed_0", "seed_1"):
        tables = [
            predictions.read(workdir / m / seed / "predictions_test.csv", task) for m in MODALITIES
        ]
        chosen = []
        for row in range(20):
            votes = [
                table.outputs[row] for table, here in zip(tables, present, strict=True) if here[row]
            ]
            counts = np.bincount([vote.argmax() for vote in votes], minlength=3)
            chosen.append((counts + np.mean(votes, axis=0)).argmax())
        accuracies.append((np.array(chosen) == task.labels(tables[0].scores)).mean())
    shown = report["systems"]["late"]["splits"]["test"]["metrics"]["accuracy"]
    assert shown["mean"] == pytest.approx(np.mean(accuracies))
    assert shown["best"] == pytest.approx(max(accuracies))


def test_a_vote_leaves_out_what_an_utterance_lacks() -> None:
    task = Task(kind="three_class")

    def table(outputs: list[list[float]]) -> predictions.PredictionTable:
        return predictions.PredictionTable(
            ids=["a", "b"],
            video_ids=["v", "v"],
            scores=np.array([-2.0, 2.0]),
            outputs=np.array(outputs, np.float32),
        )

    negative, positive = [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]
    voters = [[table([negative] * 2)], [table([negative] * 2)], [table([positive] * 2)]]
    present = np.array([[True, False], [True, False], [True, True]])
    (voted,) = judgement.vote(task, voters, present)
    assert voted.outputs.argmax(axis=1).tolist() == [0, 2]


def test_trivial_baselines_use_both_bins(finished: Any) -> None:
    workdir, _, report = finished
    table = predictions.read(
        workdir / "text" / "seed_0" / "predictions_test.csv", Task(kind="three_class")
    )
    scores = features(100)["score"]
    for bins, neutral in (("bins", "closed"), ("other_bins", "right_closed")):
        task = Task(kind="three_class", neutral=neutral)  # type: ignore[arg-type]
        majority = np.bincount(task.labels(scores[:60])).argmax()
        shown = report["baselines"][bins]["test"]["majority"]["accuracy"]
        assert shown == pytest.approx((task.labels(table.scores) == majority).mean())


def test_every_system_is_compared_with_the_majority(finished: Any) -> None:
    _, _, report = finished
    pairs = [(c["first"], c["second"]) for c in report["comparisons"]]
    assert len(set(pairs)) == len(pairs)
    assert {first for first, second in pairs if second == "majority"} == set(report["systems"])
    for comparison in report["comparisons"]:
        assert comparison["p_adjusted"] >= comparison["p_value"] or np.isnan(comparison["p_value"])


def test_the_page_says_it_in_words(finished: Any) -> None:
    workdir, systems, report = finished
    page = _page(json.loads(json.dumps(report)), workdir, systems)
    text = markdown.render(page)
    for word in ("majority class", "A2 attention", "72.39", "points", "Holm", "±"):
        assert word in text
    assert set(page.figures) == {
        "systems.png",
        "learning-curves.png",
        "confusion.png",
        "reliability.png",
        "weights-attention.png",
        "weights-attention-pretrained.png",
        "weights-daf.png",
    }
    assert "A2 attention" in html.render(page)


def test_what_is_trained_is_not_trained_again(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, systems, report = finished

    def refuse(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "train_together", refuse)
    again = reproduce.reproduce(systems, str(workdir), lambda _: None)
    for part in ("systems", "comparisons", "card", "baselines"):  # as text: NaN is not itself
        assert json.dumps(again[part]) == json.dumps(report[part]), part


def test_an_interrupted_reproduction_goes_on(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, calls = _systems(write_features(), tmp_path, seeds=1), []
    original = train.train_together

    def stop_after_two(configs: Any, run: Any, *rest: Any) -> Any:
        calls.append(Path(run.path).name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(configs, run, *rest)

    monkeypatch.setattr(train, "train_together", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        reproduce.reproduce(systems, str(tmp_path), lambda _: None)
    report = reproduce.reproduce(systems, str(tmp_path), lambda _: None)
    # What takes longest first, but encoders before what starts from them.
    assert calls[:5] == ["early", "attention", "daf", "daf", "daf_uniform"]
    assert calls[5:] == ["text", "audio", "vision", "early_pretrained", "attention_pretrained"]
    assert report["seeds"] == [0]


def test_data_without_a_test_split_are_judged_on_validation(
    write_features: Write, tmp_path: Path
) -> None:
    splits = np.array(["train"] * 60 + ["valid"] * 40)
    systems = _systems(write_features(split=splits), tmp_path, seeds=1)
    report = reproduce.reproduce(systems, str(tmp_path), lambda _: None)
    assert report["judged_on"] == "valid"
    assert "valid split (40 utterances)" in markdown.render(_page(report, tmp_path, systems))


def test_a_diverged_seed_is_not_left_out_in_silence(finished: Any) -> None:
    _, systems, _ = finished
    seeds = {"seed_0": {"diverged": None}, "seed_3": {"diverged": 12}}
    with pytest.raises(UserError, match="seed_3 diverged"):
        reproduce._check_seeds(systems[0], {"seeds": seeds})


def test_regression_and_a_single_seed(write_features: Write, tmp_path: Path) -> None:
    systems = _systems(write_features(), tmp_path, seeds=1, **{"task.kind": "regression"})
    report = reproduce.reproduce(systems, str(tmp_path), lambda _: None)
    table = predictions.read(tmp_path / "early" / "predictions_test.csv", Task(kind="regression"))
    shown = report["systems"]["early"]["splits"]["test"]["metrics"]["mae"]
    expected = metrics.regression(table.scores, table.outputs[:, 0])["mae"]
    assert shown["mean"] == pytest.approx(expected)
    text = markdown.render(_page(report, tmp_path, systems))
    for word in ("Has0", "Non0", "MAE", "constant: median", "the median score"):
        assert word in text


@pytest.mark.parametrize(
    ("difference", "p", "words"),
    [
        (0.005, 0.4, "A leads B by 0.5 ± 0.9 points: **not distinguishable** (p = 0.400)."),
        (0.02, 0.0001, "**A beats B** by 2.0 ± 0.9 points (p < 0.001)."),
        (-0.02, 0.01, "**A falls short of B** by 2.0 ± 0.9 points (p = 0.010)."),
    ],
)
def test_sentences(difference: float, p: float, words: str) -> None:
    comparison = {
        "first": "a",
        "second": "b",
        "measure": "accuracy",
        "difference": difference,
        "low": difference - 0.009,
        "high": difference + 0.009,
        "p_adjusted": p,
    }
    assert reproduction.sentence(comparison, {"a": "A", "b": "B"}) == words


def test_lower_errors_are_better() -> None:
    comparison = {"first": "a", "second": "b", "measure": "mae", "difference": -0.1}
    comparison |= {"low": -0.15, "high": -0.05, "p_adjusted": 0.01}
    words = reproduction.sentence(comparison, {"a": "A", "b": "B"})
    assert words == "**A beats B** by 0.100 ± 0.050 of MAE (p = 0.010)."


def test_the_flags_reach_every_config(tmp_path: Path) -> None:
    def load(name: str) -> Any:
        return importlib.import_module(f"configs.{name}").get_config("quick")

    found = reproduce.systems(load, ("audio", "text"), {"data.size": "full"}, str(tmp_path))
    assert [each.name for each in found[:2]] == ["audio", "text"]
    trained = [each.config for each in found if each.config is not None]
    assert {config.data.size for config in trained} == {"full"}
    assert trained[-1].data.modalities == ("audio", "text")
    (pretrained,) = [each.config for each in found if each.name == "attention_pretrained"]
    assert [Path(p).name for p in pretrained.init.encoders] == ["audio", "text"]
    assert trained[-1].model.gate == "uniform"
    quick = reproduce.systems(load, ("audio", "text"), {}, str(tmp_path), brief=True)
    assert [each.name for each in quick] == [each.name for each in found[:-1]]
    epochs = {each.name: each.config.training.epochs for each in quick if each.config is not None}
    whole = {each.name: each.config.training.epochs for each in found if each.config is not None}
    told = reproduce.systems(load, ("text",), {"training.epochs": 5}, str(tmp_path), brief=True)
    assert {s.config.training.epochs for s in told if s.config is not None} == {5}
    for name in epochs:
        assert epochs[name] == 0.75 * whole[name], name


def test_the_report_tells_the_epochs_of_every_system(finished: Any) -> None:
    workdir, systems, report = finished
    for each in systems:
        told = report["systems"][each.name]["epochs"]
        assert told == (each.config and each.config.training.epochs)
    text = markdown.render(_page(report, workdir, systems))
    assert "system | parameters | epochs | seconds" in text
