"""A run compiles each of its programs once for each shape, however long it trains."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from msa_jax import train
from tests.conftest import tiny_config

_COMPILED = re.compile(r"Finished XLA compilation of jit\((\w+)\)")


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(
    ("feed", "program", "times"), [("stream", "train_step", 2), ("resident", "train_loop", 1)]
)
def test_programs_are_compiled_once_a_shape(
    write_features: Callable[..., str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    seeds: int,
    feed: str,
    program: str,
    times: int,
) -> None:
    path, counts = write_features(), []
    for epochs in (1, 3):
        config = tiny_config(
            "attention",
            path,
            **{"training.epochs": epochs, "data.buckets": 2, "data.feed": feed, "num_seeds": seeds},
        )
        jax.clear_caches()
        caplog.clear()
        with jax.log_compiles():
            train.train_and_evaluate(config, str(tmp_path / f"{epochs}"))
        counts.append(Counter(_COMPILED.findall(caplog.text)))
    assert counts[0][program] == times
    assert not {"train_step", "train_loop"} - {program} & counts[0].keys()
    assert counts[0]["eval_step"] in (1, 2)  # of valid and test, whose batches are of one size
    assert counts[1] == counts[0]
