"""Missing modalities, missing frames, noise."""

from typing import Any

import jax
import numpy as np
import pytest

from msa_jax import augment
from msa_jax.config import Augment
from tests.conftest import random_batch

MODALITIES = ("text", "audio", "vision")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def batch() -> Any:
    batch = random_batch(size=2000)
    batch["audio_mask"][:500] = False
    return batch


def present(batch: Any) -> np.ndarray:
    """[M, B]"""
    return np.stack([np.asarray(batch[f"{m}_mask"]).any(axis=1) for m in MODALITIES])


def test_nothing_asked_changes_nothing(batch: Any) -> None:
    same = augment.corrupt(batch, KEY, Augment())
    assert same.keys() == batch.keys()
    for name in batch:
        np.testing.assert_array_equal(same[name], batch[name])


def test_modalities_go_at_the_rate_asked_and_one_stays(batch: Any) -> None:
    before = present(batch)
    after = present(augment.corrupt(batch, KEY, Augment(modality_dropout=0.3)))
    assert after.any(axis=0).all()
    assert not (after & ~before).any(), "what was absent stays absent"
    whole = before.all(axis=0)
    # All three go in 0.3 ** 3 of the examples, and one of them is then kept.
    assert after[:, whole].mean() == pytest.approx(0.7 + 0.3**3 / 3, abs=0.02)
    nearly = present(augment.corrupt(batch, KEY, Augment(modality_dropout=0.99)))
    assert nearly.any(axis=0).all()
    assert nearly.sum(axis=0).mean() < 1.1


def test_frames_go_at_the_rate_asked() -> None:
    batch = random_batch({"text": 60, "audio": 40}, size=500)
    after = augment.corrupt(batch, KEY, Augment(frame_dropout=0.4))
    for m in ("text", "audio"):
        mask, kept = batch[f"{m}_mask"], np.asarray(after[f"{m}_mask"])
        assert not (kept & ~mask).any()
        assert kept.sum() / mask.sum() == pytest.approx(0.6, abs=0.03)
        np.testing.assert_array_equal(after[m], batch[m])


@pytest.mark.parametrize("modality_dropout", [0.0, 0.5])
def test_no_example_loses_its_last_frame(batch: Any, modality_dropout: float) -> None:
    config = Augment(frame_dropout=0.95, modality_dropout=modality_dropout)
    after = augment.corrupt(batch, KEY, config)
    assert present(after).any(axis=0).all()
    if not modality_dropout:
        np.testing.assert_array_equal(present(after), present(batch))


def test_noise_has_the_deviation_asked(batch: Any) -> None:
    after = augment.corrupt(batch, KEY, Augment(noise=0.5))
    for m in MODALITIES:
        difference = np.asarray(after[m]) - batch[m]
        assert difference.std() == pytest.approx(0.5, rel=0.05)
        assert difference.mean() == pytest.approx(0.0, abs=0.02)


def test_the_key_decides(batch: Any) -> None:
    config = Augment(modality_dropout=0.3, frame_dropout=0.2, noise=0.1)
    first, again = (augment.corrupt(batch, KEY, config) for _ in range(2))
    other = augment.corrupt(batch, jax.random.key(1), config)
    for name in batch:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["text_mask"], other["text_mask"])
    assert not np.array_equal(first["text"], other["text"])
    for name in ("score", "label", "example_mask"):
        np.testing.assert_array_equal(first[name], batch[name])
