"""Steps in loops of any length, or one by one as batches arrive, make the same run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from msa_jax import steps, train
from msa_jax.config import resolve
from msa_jax.errors import PreemptedError, UserError
from msa_jax.stretch import Stretches
from tests.conftest import tiny_config
from tests.test_interval import after, history
from tests.test_train import assert_same, selected_params

VIDEOS = {"model.context.kind": "recurrent", "model.context.width": 8, "training.batch_size": 4}


def test_stretches_lead_from_step_to_step() -> None:
    stretches = Stretches(3, lambda state, first, last: (state, {}))
    assert list(stretches.between(4, 11)) == [(4, 7), (7, 10), (10, 11)]
    assert list(stretches.between(4, 4)) == []


@pytest.mark.parametrize(
    "fields", [{"training.accumulate": 2, "augment.frame_dropout": 0.2}, VIDEOS], ids=["", "videos"]
)
def test_a_run_is_the_same_in_loops_of_any_length(
    write_features: Callable[..., str], tmp_path: Path, fields: dict[str, Any]
) -> None:
    videos = np.repeat([f"video{i}" for i in range(100)], np.arange(100) % 5 + 1)[:100]
    path = write_features(video_id=videos, segment=np.arange(100))
    ways = {
        "three": {"training.steps_per_loop": 3},
        "more": {"training.steps_per_loop": 64},
        "stream": {"data.feed": "stream"},
    }
    for way, changes in ways.items():
        config = tiny_config("text", path, **fields, **changes, **{"training.epochs": 2})
        train.train_and_evaluate(config, str(tmp_path / way))
    assert len(history(tmp_path / "three")) == 2
    assert history(tmp_path / "three") == history(tmp_path / "more")
    assert_same(selected_params(tmp_path / "three"), selected_params(tmp_path / "more"))
    # The same batches in another program.
    histories = history(tmp_path / "three"), history(tmp_path / "stream")
    for looped, streamed in zip(*histories, strict=True):
        for name in ("step", "train_loss", "valid_loss"):
            assert streamed[name] == pytest.approx(looped[name], rel=1e-4), name


def test_a_last_interval_may_be_shorter(write_features: Callable[..., str], tmp_path: Path) -> None:
    fields = {"batch_size": 12, "evaluations_per_epoch": 2, "epochs": 1}  # 5 steps, 2 an interval
    config = tiny_config(
        "text", write_features(), **{f"training.{k}": x for k, x in fields.items()}
    )
    train.train_and_evaluate(config, str(tmp_path / "whole"))
    assert [line["step"] for line in history(tmp_path / "whole")] == [2, 4, 5]
    with pytest.raises(PreemptedError, match="at step 4: saved"):
        train.train_and_evaluate(config, str(tmp_path / "stopped"), after(2))
    config.training.steps_per_loop = 1
    train.train_and_evaluate(config, str(tmp_path / "stopped"))
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


def test_a_loop_asks_the_host_once(
    write_features: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, calls = tiny_config("text", write_features()), []
    make = steps.jit_train_loop

    def counted(*given: Any) -> Any:
        loop = make(*given)

        def call(state: Any, held: Any, rows: Any, buckets: Any, count: int) -> Any:
            result = loop(state, held, rows, buckets, count)
            # Later ones are held by the checkpoint that is being written, and copied.
            if not calls:
                assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state)), "it is donated"
            calls.append((len(rows), count))
            return result

        return call

    monkeypatch.setattr(steps, "jit_train_loop", counted)
    train.train_and_evaluate(config, str(tmp_path / "run"))
    assert calls == [(8, 4)] * 3  # of 8 at most, up to each evaluation


def test_a_loop_takes_a_step_at_least() -> None:
    with pytest.raises(UserError, match=r"training\.steps_per_loop=0: expected at least 1"):
        resolve(tiny_config("text", "", **{"training.steps_per_loop": 0}))
