import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as reference

from msa_jax import metrics
from msa_jax.tasks import Task

SCORES = np.random.default_rng(0).integers(-9, 10, 400) / 3
PREDICTED = SCORES * 0.6 + np.random.default_rng(1).normal(0, 1, 400)


@pytest.mark.parametrize("seed", range(5))
def test_classification_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 3, 60), rng.integers(0, 5, 60)
    ours = metrics.classification(labels, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that are never true
        theirs = {
            "accuracy": reference.accuracy_score(labels, predicted),
            "macro_f1": reference.f1_score(labels, predicted, average="macro"),
            "weighted_f1": reference.f1_score(labels, predicted, average="weighted"),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        }
    assert ours == pytest.approx(theirs)


def test_regression_equals_independent_definitions() -> None:
    ours = metrics.regression(SCORES, PREDICTED)
    nonzero = SCORES != 0
    theirs = {
        "mae": reference.mean_absolute_error(SCORES, PREDICTED),
        "corr": scipy.stats.pearsonr(SCORES, PREDICTED).statistic,
        "acc2_has0": reference.accuracy_score(SCORES >= 0, PREDICTED >= 0),
        "f1_has0": reference.f1_score(SCORES >= 0, PREDICTED >= 0, average="weighted"),
        "acc2_non0": reference.accuracy_score(SCORES[nonzero] > 0, PREDICTED[nonzero] > 0),
        "f1_non0": reference.f1_score(
            SCORES[nonzero] > 0, PREDICTED[nonzero] > 0, average="weighted"
        ),
    }
    for limit in (7, 5, 3):
        bound = limit // 2
        rounded = [[round(max(-bound, min(bound, v))) for v in x] for x in (SCORES, PREDICTED)]
        theirs[f"acc{limit}"] = reference.accuracy_score(*rounded)
    assert ours == pytest.approx(theirs)


def test_published_constants_of_the_mosei_test_fold() -> None:
    """LITERATURE: always positive on 28.96 % negative, 21.99 % zero, 49.06 % positive."""
    scores = np.repeat([-1.0, 0.0, 1.0], [1350, 1025, 2287])
    constant = metrics.regression(scores, np.ones(len(scores)))
    assert constant["acc2_non0"] == pytest.approx(0.6288, abs=1e-4)
    assert constant["f1_non0"] == pytest.approx(0.4855, abs=1e-4)
    assert constant["acc2_has0"] == pytest.approx(0.7104, abs=1e-4)
    assert constant["f1_has0"] == pytest.approx(0.5901, abs=1e-4)


def test_weighted_f1_takes_truth_first() -> None:
    labels, predicted = np.array([0, 0, 0, 1]), np.array([1, 1, 1, 1])
    assert metrics.classification(labels, predicted)["weighted_f1"] == pytest.approx(0.1)
    assert metrics.classification(predicted, labels)["weighted_f1"] == pytest.approx(0.4)


def test_zeros_are_non_negative_and_left_out_of_non0() -> None:
    result = metrics.regression(np.array([0.0, 0.0, -1.0]), np.array([0.0, -0.1, -0.1]))
    assert result["acc2_has0"] == pytest.approx(2 / 3)
    assert result["acc2_non0"] == 1.0


def test_predictions_count_unclipped_in_mae() -> None:
    assert metrics.regression(np.array([3.0, -3.0]), np.array([5.0, -3.0]))["mae"] == 1.0


def test_undefined_metrics_are_nan() -> None:
    constant = metrics.regression(SCORES, np.full(len(SCORES), 0.3))
    assert np.isnan(constant["corr"])
    assert np.isnan(metrics.regression(np.zeros(3), np.ones(3))["acc2_non0"])


def test_better_and_worse() -> None:
    assert metrics.is_better("mae", 0.5, 0.6)
    assert metrics.is_better("accuracy", 0.6, 0.5)
    assert not metrics.is_better("accuracy", 0.5, 0.5)
    assert not metrics.is_better("corr", float("nan"), 0.1)
    assert metrics.is_better("corr", 0.1, float("nan"))


def test_majority_is_learnt_from_train_alone() -> None:
    task = Task(kind="three_class")
    fitted = metrics.fit_baselines(task, np.array([2.0, 2.0, 0.0]))
    row = metrics.of_baselines(task, fitted, np.array([0.0, 0.0, 0.0, 2.0]))["majority"]
    assert row["accuracy"] == 0.25


def test_regression_baselines() -> None:
    task = Task(kind="regression")
    fitted = metrics.fit_baselines(task, np.array([-3.0, 1.0, 1.0, 1.0, 2.0]))
    test = np.array([1.0, 1.0, -1.0, 0.0])
    rows = metrics.of_baselines(task, fitted, test)
    assert rows["median"]["mae"] == pytest.approx(0.75)
    assert rows["best_constant"]["acc7"] == 0.5
    assert rows["best_constant"]["acc2_has0"] == 0.75
    assert np.isnan(rows["best_constant"]["corr"])


@pytest.mark.parametrize("rows", [[], [3, 3, 3], [0, 1, 2, 3, 4, 4, 1]])
def test_metrics_of_rows_are_those_of_a_split_with_these_rows(rows: list[int]) -> None:
    task = Task(kind="three_class")
    scores = np.array([-2.0, 0.0, 0.4, 3.0, 1.5])
    outputs = np.eye(3)[[0, 1, 2, 2, 0]]
    chosen = np.array(rows, int)
    found = metrics.by_rows(task, scores, outputs)(chosen)
    labels, predictions = task.labels(scores[chosen]), outputs[chosen].argmax(axis=-1)
    assert found == pytest.approx(metrics.classification(labels, predictions), nan_ok=True)
    with pytest.raises(ValueError, match=r"not \[0, 3\)"):
        metrics.by_rows(task, scores, np.eye(4)[[0, 1, 2, 3, 0]])


def test_confusion_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 3, 60), rng.integers(0, 4, 60)
    ours = metrics.confusion(labels, predicted, 5)
    np.testing.assert_array_equal(
        ours, reference.confusion_matrix(labels, predicted, labels=range(5))
    )
    assert np.issubdtype(ours.dtype, np.integer)
    assert metrics.confusion(np.zeros(0), np.zeros(0), 2).tolist() == [[0, 0], [0, 0]]
    assert metrics.confusion(np.array([0, 0]), np.array([1, 1]), 2).tolist() == [[0, 2], [0, 0]]


@pytest.mark.parametrize(("labels", "predicted"), [([0, 3], [0, 0]), ([0, 0], [0, -1]), ([0], [])])
def test_confusion_refuses_classes_it_has_no_room_for(labels: list, predicted: list) -> None:
    with pytest.raises(ValueError, match=r"Classes lie in|do not match"):
        metrics.confusion(np.array(labels), np.array(predicted), 3)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_equals_a_loop(bins: int) -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.6, 0.6, 0.6], 300)
    labels = rng.integers(0, 3, 300)
    ours = metrics.calibration(labels, probabilities, bins)
    error = 0.0
    for b in range(bins):
        inside = [
            (max(row), float(list(row).index(max(row)) == label))
            for row, label in zip(probabilities, labels, strict=True)
            if b / bins < max(row) <= (b + 1) / bins
        ]
        assert ours.count[b] == len(inside)
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            assert ours.confidence[b] == pytest.approx(confidence)
            assert ours.accuracy[b] == pytest.approx(accuracy)
            error += abs(accuracy - confidence) * len(inside) / 300
        else:
            assert np.isnan([ours.confidence[b], ours.accuracy[b]]).all()
    assert ours.expected_error == pytest.approx(error)
    assert ours.count.sum() == 300


def test_calibration_at_its_ends() -> None:
    certain = np.eye(3)[[0, 1, 2, 0]]
    assert metrics.calibration(np.array([0, 1, 2, 0]), certain).expected_error == 0.0
    assert metrics.calibration(np.array([1, 2, 0, 1]), certain).expected_error == 1.0
    halves = metrics.calibration(np.array([0, 1]), np.full((2, 2), 0.5), bins=2)
    assert halves.count.tolist() == [2, 0]
    assert halves.expected_error == 0.0
    empty = metrics.calibration(np.zeros(0), np.zeros((0, 3)))
    assert np.isnan(empty.expected_error)


def test_halves_are_rounded_to_even() -> None:
    """0.5 is 0, 1.5 is 2 and 2.5 is 2, so that 7 classes see (0, 2, 2) and their mirror."""
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    even = np.array([-2.0, -2.0, 0.0, 0.0, 2.0, 2.0])
    away = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    for truth, predicted in ((halves, even), (even, halves)):
        result = metrics.regression(truth, predicted)
        assert (result["acc7"], result["acc5"]) == (1.0, 1.0)
    assert metrics.regression(away, halves)["acc7"] == pytest.approx(2 / 6)
    # Clipped to 2 before it is rounded, 2.5 is 2 for either; only the halves of 1 stay apart.
    assert metrics.regression(away, halves)["acc5"] == pytest.approx(4 / 6)
    assert metrics.regression(np.array([1.0]), np.array([7.0]))["acc3"] == 1.0


def test_negative_zero_and_all_zeros() -> None:
    result = metrics.regression(np.array([0.0, -0.0]), np.array([-0.0, 0.0]))
    assert (result["acc2_has0"], result["f1_has0"], result["mae"]) == (1.0, 1.0, 0.0)
    assert np.isnan([result["acc2_non0"], result["f1_non0"], result["corr"]]).all()


def test_one_constant_class() -> None:
    labels = np.array([0, 1, 2, 2])
    result = metrics.classification(labels, np.full(4, 2))
    assert result["accuracy"] == 0.5
    assert result["macro_f1"] == pytest.approx(2 / 9)
    assert result["weighted_f1"] == pytest.approx(1 / 3)
    assert result["balanced_accuracy"] == pytest.approx(1 / 3)
    perfect = metrics.classification(np.full(4, 2), np.full(4, 2))
    assert set(perfect.values()) == {1.0}


@pytest.mark.parametrize("value", [0.1, 1e-30, 1e6, -3.0])
def test_correlation_with_a_constant_is_undefined(value: float) -> None:
    constant = np.full(len(SCORES), value)
    assert np.isnan(metrics.regression(SCORES, constant)["corr"])
    assert np.isnan(metrics.regression(constant, PREDICTED)["corr"])
    assert np.isnan(metrics.regression(SCORES, constant * (1 + 1e-16))["corr"])
    rounded = constant.astype(np.float32)
    one_up = np.where(SCORES > 0, np.nextafter(rounded, np.float32(np.inf)), rounded)
    assert np.isnan(metrics.regression(SCORES, one_up)["corr"])


def test_correlation_is_told_where_predictions_spread_beyond_rounding() -> None:
    expected = scipy.stats.pearsonr(SCORES, PREDICTED).statistic
    unit = PREDICTED / np.ptp(PREDICTED)
    assert metrics.regression(SCORES, 0.5 + 3e-5 * unit)["corr"] == pytest.approx(expected)
    assert np.isnan(metrics.regression(SCORES, 0.5 + 3e-6 * unit)["corr"])
