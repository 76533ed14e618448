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
    "selection": {"members": [{"selected": {"step": 1, "metrics": {"mae": 0.1}}}]},
}


def _state(value: float, width: int = 3) -> TrainState:
    params = {"a": {"kernel": jnp.full((2, width), value)}, "b": jnp.zeros(())}
    moments = (jax.tree.map(jnp.ones_like, params), jnp.int32(7))
    selected = jax.tree.map(lambda leaf: leaf + 1, params)
    return TrainState(params, moments, jnp.int32(value), jax.random.key(int(value)), selected)


def _abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def _save(path: Path, steps: int) -> None:
    with Checkpoints(path) as checkpoints:
        for step in range(1, steps + 1):
            checkpoints.save(step, _state(step), DESCRIPTION)


def test_keeps_the_latest(tmp_path: Path) -> None:
    _save(tmp_path, 3)
    assert [p.name for p in tmp_path.iterdir() if p.name.isdigit()] == ["3"]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.step == 3
        assert checkpoints.description() == DESCRIPTION


def test_state_comes_back_whole(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore_state(_abstract(_state(0)))
        params = checkpoints.restore_selected(_abstract(_state(0).selected))
    expected = _state(1)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    jax.tree.map(np.testing.assert_array_equal, params, expected.selected)


def test_mismatches_are_named(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    wanted = {"a": {"kernel": jnp.zeros((2, 5))}, "c": jnp.zeros(3), "b": jnp.zeros(())}
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="does not fit") as error,
    ):
        checkpoints.restore_selected(_abstract(wanted))
    assert "selected/a/kernel: [2, 3] in the checkpoint, [2, 5] in the model" in str(error.value)
    assert "selected/c: missing" in str(error.value)


def test_empty_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
    with pytest.raises(UserError, match="no checkpoint"):
        Checkpoints(tmp_path, read_only=True)
