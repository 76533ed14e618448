from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msa_jax.checkpoints import Checkpoints
from msa_jax.errors import UserError
from msa_jax.state import TrainState

DESCRIPTION = {
    "config": {"training": {"selection": "mae"}},
    "normalization": {},
    "schema": {"fingerprint": "x"},
}


def _state(value: float, width: int = 3) -> TrainState:
    params = {"a": {"kernel": jnp.full((2, width), value)}, "b": jnp.zeros(())}
    moments = (jax.tree.map(jnp.ones_like, params), jnp.int32(7))
    return TrainState(params, moments, jnp.int32(value), jax.random.key(int(value)))


def _abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def _save(path: Path, values: list[float], selection: str = "mae") -> None:
    with Checkpoints(path, selection=selection) as checkpoints:
        for step, value in enumerate(values, start=1):
            checkpoints.save(step, _state(step), DESCRIPTION, {"mae": value})


@pytest.mark.parametrize(
    ("values", "kept", "best"),
    [
        ([0.5, 0.3, 0.4, 0.6], [2, 4], 2),
        ([0.5, 0.3, 0.3, 0.3], [2, 4], 2),
        ([float("nan"), 0.5, float("nan")], [2, 3], 2),
        ([0.3, 0.2], [2], 2),
    ],
)
def test_keeps_the_latest_and_the_earliest_best(
    tmp_path: Path, values: list[float], kept: list[int], best: int
) -> None:
    _save(tmp_path, values)
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == kept
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_step == best
        assert checkpoints.latest_step == len(values)
        assert checkpoints.description(best) == DESCRIPTION


def test_state_comes_back_whole(tmp_path: Path) -> None:
    _save(tmp_path, [0.1])
    with Checkpoints(tmp_path, selection="mae") as checkpoints:
        state = checkpoints.restore_state(1, _abstract(_state(0)))
        params = checkpoints.restore_params(1, _abstract(_state(0).params))
    expected = _state(1)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    jax.tree.map(np.testing.assert_array_equal, params, expected.params)


def test_mismatches_are_named(tmp_path: Path) -> None:
    _save(tmp_path, [0.1])
    wanted = {"a": {"kernel": jnp.zeros((2, 5))}, "c": jnp.zeros(3), "b": jnp.zeros(())}
    with (
        Checkpoints(tmp_path, selection="mae") as checkpoints,
        pytest.raises(UserError, match="does not fit") as error,
    ):
        checkpoints.restore_params(1, _abstract(wanted))
    assert "params/a/kernel: [2, 3] in the checkpoint, [2, 5] in the model" in str(error.value)
    assert "params/c: missing" in str(error.value)


def test_empty_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
    with pytest.raises(UserError, match="no checkpoint"):
        Checkpoints(tmp_path, read_only=True)
