"""Store, normalisation, order, pipeline: from a prepared dataset to batches."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from msa_jax.config import Data
from msa_jax.data import builders, dataset, normalization, order, pipeline, store
from msa_jax.errors import UserError
from msa_jax.tasks import Task
from tests.conftest import features

Write = Callable[..., str]
TASK = Task(kind="three_class")
MODALITIES = ("text", "audio", "vision")
LENGTHS = {"text": 6, "audio": 1, "vision": 4}


@pytest.fixture
def train(write_features: Write) -> store.Split:
    return store.load(builders.prepare(Data(path=write_features())), "train", MODALITIES, 50)


def test_non_finite_values_are_replaced_and_counted(write_features: Write) -> None:
    audio = features()["audio"]
    audio[0, 1], audio[1, 1], audio[2, 0] = np.nan, -np.inf, np.inf
    loaded = dataset.load(Data(path=write_features(audio=audio)))
    summary = loaded.summary["splits"]["train"]["modalities"]["audio"]
    assert summary["repaired"] == 3
    assert summary["repaired_columns"] == {"0": 1, "1": 2}
    for split in loaded.splits.values():
        for sequences in split.sequences.values():
            assert np.isfinite(sequences.frames).all()


def test_what_stands_in_padded_frames_is_never_read(write_features: Write) -> None:
    text, lengths = features()["text"], features()["text_length"]
    text[np.arange(6) >= lengths[:, None]] = np.nan
    clean = dataset.load(Data(path=write_features("clean.npz")))
    dirty = dataset.load(Data(path=write_features("dirty.npz", text=text)))
    assert dirty.summary["splits"]["train"]["modalities"]["text"]["repaired"] == 0
    np.testing.assert_array_equal(
        clean.normalization.mean["text"], dirty.normalization.mean["text"]
    )


def test_long_sequences_are_cut_and_counted(write_features: Write) -> None:
    builder = builders.prepare(Data(path=write_features()))
    cut = store.load(builder, "train", ("text",), 4).sequences["text"]
    lengths = features()["text_length"][:60]
    np.testing.assert_array_equal(cut.lengths, np.minimum(lengths, 4))
    assert cut.cut == np.maximum(lengths - 4, 0).sum()


def test_a_modality_may_be_absent_from_every_example(write_features: Write) -> None:
    path = write_features(vision_length=np.zeros(100, int))
    loaded = dataset.load(Data(path=path))
    batch = loaded.splits["train"].gather(np.arange(3), loaded.schema.lengths)
    assert not batch["vision_mask"].any()
    assert batch["vision"].shape == (3, 1, 4)


def test_unknown_modality_and_split_are_named(write_features: Write) -> None:
    builder = builders.prepare(Data(path=write_features()))
    with pytest.raises(UserError, match=r"no modality 'txt'.*Did you mean 'text'"):
        store.load(builder, "train", ("txt",), 5)
    with pytest.raises(UserError, match=r"no split 'tset'.*Did you mean 'test'"):
        store.load(builder, "tset", ("text",), 5)


def test_training_needs_train_and_valid(write_features: Write) -> None:
    with pytest.raises(UserError, match="no utterance in split 'train', only in valid"):
        dataset.load(Data(path=write_features(split=np.array(["valid"] * 100))))


def test_normalization_uses_real_train_frames_alone(train: store.Split) -> None:
    fitted = normalization.fit(train)
    frames = fitted.apply(train).sequences["text"].frames
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-4)
    padded = train.gather(np.arange(60), {"text": 50, "audio": 1, "vision": 4})
    assert abs(padded["text"].mean() - train.sequences["text"].frames.mean()) > 1e-3


def test_constant_columns_become_zero_and_json_is_exact(write_features: Write) -> None:
    audio = features()["audio"]
    audio[:, 2] = 7.7
    loaded = dataset.load(Data(path=write_features(audio=audio)))
    assert not loaded.splits["test"].sequences["audio"].frames[:, 2].any()
    again = normalization.Normalization.from_json(loaded.normalization.to_json())
    for modality in MODALITIES:
        np.testing.assert_array_equal(again.mean[modality], loaded.normalization.mean[modality])
        np.testing.assert_array_equal(again.scale[modality], loaded.normalization.scale[modality])


def test_small_numbers_are_not_constant(write_features: Write) -> None:
    audio = features()["audio"] * 1e-7
    scaled = dataset.load(Data(path=write_features(audio=audio))).splits["train"].sequences["audio"]
    np.testing.assert_allclose(scaled.frames.std(axis=0), 1.0, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_every_epoch_is_a_permutation_of_its_own(size: int) -> None:
    rows = order.rows(tf.range(3 * size, dtype=tf.int64), size, 3).numpy().reshape(3, size)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(size), (3, 1)))
    if size >= 64:
        assert not np.array_equal(rows[0], rows[1])
        other = order.rows(tf.range(size, dtype=tf.int64), size, 4).numpy()
        assert not np.array_equal(rows[0], other)


def _steps(train: store.Split, first: int, last: int, seed: int = 0, **process: int) -> list:
    return list(
        pipeline.train_batches(
            train,
            TASK,
            lengths=LENGTHS,
            batch_size=16,
            seed=seed,
            first_step=first,
            last_step=last,
            **process,
        )
    )


def test_a_batch_is_a_function_of_seed_and_step(train: store.Split) -> None:
    whole, tail = _steps(train, 0, 9), _steps(train, 5, 9)
    for a, b in zip(whole[5:], tail, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert not np.array_equal(whole[0]["score"], _steps(train, 0, 1, seed=1)[0]["score"])


def test_processes_share_the_same_global_batches(train: store.Split) -> None:
    whole = _steps(train, 0, 5)
    parts = [_steps(train, 0, 5, process_index=i, process_count=4) for i in range(4)]
    for step, batch in enumerate(whole):
        for name in batch:
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(batch[name], joined)


def test_batch_contract(train: store.Split) -> None:
    batch = _steps(train, 0, 1)[0]
    for modality, length in LENGTHS.items():
        channels = train.sequences[modality].frames.shape[1]
        assert batch[modality].shape == (16, length, channels)
        assert batch[modality].dtype == np.float32
        mask = batch[f"{modality}_mask"]
        assert mask.shape == (16, length)
        assert mask.dtype == bool
        assert not batch[modality][~mask].any()
        assert (np.diff(mask.astype(int), axis=1) <= 0).all(), "padding is at the end"
    assert (batch["score"].dtype, batch["label"].dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(batch["label"], TASK.labels(batch["score"]))


@pytest.mark.parametrize(("batch_size", "processes"), [(16, 1), (60, 1), (64, 1), (16, 4)])
def test_evaluation_sees_every_row_once_in_order(
    train: store.Split, batch_size: int, processes: int
) -> None:
    parts = [
        list(
            pipeline.eval_batches(
                train,
                TASK,
                lengths=LENGTHS,
                batch_size=batch_size,
                process_index=i,
                process_count=processes,
            )
        )
        for i in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1
    batches = [
        {name: np.concatenate([part[i][name] for part in parts]) for name in parts[0][0]}
        for i in range(len(parts[0]))
    ]
    scores = np.concatenate([b["score"] for b in batches])
    mask = np.concatenate([b["example_mask"] for b in batches])
    np.testing.assert_array_equal(scores[mask], train.scores)
    assert mask.argmin() == len(train) or mask.all()
    for batch in batches:
        assert not batch["text_mask"][~batch["example_mask"]].any()
