import numpy as np
import pytest

from msa_jax.tasks import Task, seven_class, three_class


@pytest.mark.parametrize(
    ("closure", "expected"),
    [("closed", [0, 0, 1, 1, 1, 1, 2, 2]), ("right_closed", [0, 0, 0, 1, 1, 1, 2, 2])],
)
def test_three_classes_at_the_edges(closure: str, expected: list[int]) -> None:
    scores = np.array([-3, -4 / 3, -1, -2 / 3, 0, 1, 4 / 3, 3], np.float32)
    np.testing.assert_array_equal(three_class(scores, closure), expected)


def test_rounding_noise_does_not_move_a_score_over_an_edge() -> None:
    scores = np.array([1.0000001, -1.0000001], np.float32)
    np.testing.assert_array_equal(three_class(scores, "closed"), [1, 1])
    np.testing.assert_array_equal(three_class(scores, "right_closed"), [1, 0])


def test_seven_classes_round_half_to_even() -> None:
    scores = np.array([-3.4, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.6])
    np.testing.assert_array_equal(seven_class(scores) - 3, [-3, -2, -2, 0, 0, 2, 2, 3])


def test_outputs_by_task() -> None:
    outputs = {k: Task(kind=k).num_outputs for k in ("three_class", "seven_class", "regression")}
    assert outputs == {"three_class": 3, "seven_class": 7, "regression": 1}
