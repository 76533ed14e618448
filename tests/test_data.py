"""From a prepared dataset to normalised frames."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax.config import Data
from msa_jax.data import builders, dataset, flat, normalization, store, whole
from msa_jax.errors import UserError
from tests.conftest import features

Write = Callable[..., str]
MODALITIES = ("text", "audio", "vision")


def test_non_finite_values_are_replaced_and_counted(write_features: Write) -> None:
    audio = features()["audio"]
    audio[0, 1], audio[1, 1], audio[2, 0] = np.nan, -np.inf, np.inf
    loaded = dataset.load(Data(path=write_features(audio=audio)))
    summary = loaded.summary["splits"]["train"]["modalities"]["audio"]
    assert summary["repaired"] == 3
    assert summary["repaired_columns"] == {"0": 1, "1": 2}
    for split in loaded.splits.values():
        for modality in MODALITIES:
            assert np.isfinite(split.frames(modality, np.arange(len(split)))).all()


def test_what_stands_in_padded_frames_is_never_read(write_features: Write) -> None:
    text, lengths = features()["text"], features()["text_length"]
    text[np.arange(6) >= lengths[:, None]] = np.nan
    clean = dataset.load(Data(path=write_features("clean.npz")))
    dirty = dataset.load(Data(path=write_features("dirty.npz", text=text)))
    assert dirty.summary["splits"]["train"]["modalities"]["text"]["repaired"] == 0
    np.testing.assert_array_equal(
        clean.normalization.mean["text"], dirty.normalization.mean["text"]
    )


def test_data_that_are_gone_are_not_identified(write_features: Write, tmp_path: Path) -> None:
    """A finished run asks before it compares its data."""
    for data in (Data(), Data(path=write_features())):
        assert builders.identify_at_hand(data) == builders.identify(data)
    for data in (
        Data(path=str(tmp_path / "gone.npz")),
        Data(path="gs://no_such_bucket/features.npz"),
        Data(name="mine", dir=str(tmp_path)),
    ):
        assert builders.identify_at_hand(data) is None


def test_a_bucket_that_cannot_be_read_is_not_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("cannot read it: check your credentials")

    monkeypatch.setattr(builders, "open_prepared", refuse)
    assert builders.identify_at_hand(Data(name="mine", dir="gs://bucket/data")) is None


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


def test_normalization_uses_real_train_frames_alone(write_features: Write) -> None:
    arrays = features()
    train = dataset.load(Data(path=write_features())).splits["train"]
    frames = train.frames("text", np.arange(60))
    assert len(frames) == arrays["text_length"][:60].sum()
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-4)


def test_statistics_do_not_depend_on_the_parts() -> None:
    frames = np.random.default_rng(0).normal(1e4, 3.0, (1000, 5)).astype(np.float32)
    whole = normalization.fit([frames], 5)
    parts = normalization.fit([frames[:1], frames[1:1], frames[1:700], frames[700:]], 5)
    np.testing.assert_allclose(whole[0], frames.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(1 / whole[1], frames.std(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(whole, parts, rtol=1e-9)
    assert normalization.fit([], 2)[1].tolist() == [0.0, 0.0]


def test_constant_columns_become_zero_and_json_is_exact(write_features: Write) -> None:
    audio = features()["audio"]
    audio[:, 2] = 7.7
    loaded = dataset.load(Data(path=write_features(audio=audio)))
    assert not loaded.splits["test"].frames("audio", np.arange(20))[:, 2].any()
    assert loaded.summary["constant_columns"]["audio"] == 1
    again = normalization.Normalization.from_json(loaded.normalization.to_json())
    for modality in MODALITIES:
        np.testing.assert_array_equal(again.mean[modality], loaded.normalization.mean[modality])
        np.testing.assert_array_equal(again.scale[modality], loaded.normalization.scale[modality])


def test_small_numbers_are_not_constant(write_features: Write) -> None:
    audio = features()["audio"] * 1e-7
    train = dataset.load(Data(path=write_features(audio=audio))).splits["train"]
    frames = train.frames("audio", np.arange(60))
    np.testing.assert_allclose(frames.std(axis=0), 1.0, rtol=1e-4)


def test_flat_files_are_written_once_and_at_once(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = builders.prepare(Data(path=write_features(), dir=str(tmp_path / "prepared")))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(flat.np, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            store.load(builder, "train", MODALITIES, 50)
    home = Path(builder.data_dir) / f"flat-{flat._VERSION}"
    assert not home.exists()
    first = store.load(builder, "train", MODALITIES, 50)
    with monkeypatch.context() as patched:
        patched.setattr(flat, "_write", stop)
        again = store.load(builder, "train", MODALITIES, 50)
    rows = np.arange(60)
    for modality in MODALITIES:
        np.testing.assert_array_equal(first.frames(modality, rows), again.frames(modality, rows))
    assert [entry.name for entry in home.iterdir()] == ["train"]


def test_a_damaged_flat_file_is_refused(write_features: Write, tmp_path: Path) -> None:
    builder = builders.prepare(Data(path=write_features(), dir=str(tmp_path / "prepared")))
    store.load(builder, "train", MODALITIES, 50)
    (file,) = (Path(builder.data_dir) / f"flat-{flat._VERSION}" / "train").glob("audio.f32")
    os.truncate(file, 100)
    with pytest.raises(UserError, match=r"damaged \(audio has 8 frames, 60 were written\).*remove"):
        store.load(builder, "train", MODALITIES, 50)


def test_absurd_values_are_repaired_and_none_becomes_infinite(write_features: Write) -> None:
    audio = features()["audio"]
    audio[:60, 0] *= 1e-30  # in train, a column of next to nothing
    audio[90] = 1e20, -1e20, 1e37
    loaded = dataset.load(Data(path=write_features(audio=audio)))
    test = loaded.splits["test"]
    assert np.isfinite(test.frames("audio", np.arange(20))).all()
    assert test.sequences["audio"].repaired.tolist() == [0, 0, 1]


def test_parts_make_up_the_whole(write_features: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    train = dataset.load(Data(path=write_features())).splits["train"]
    for size in (1, 100, 1000, 10**9):
        monkeypatch.setattr(store, "_PART_BYTES", size)
        for modality in MODALITIES:
            parts = list(train.parts(modality))
            whole = train.frames(modality, np.arange(60))
            np.testing.assert_array_equal(np.concatenate(parts), whole)
            longest = max(train.longest[modality] * 4 * train.channels[modality], size)
            assert all(part.nbytes <= 2 * longest for part in parts)


def test_a_read_only_dataset_is_flattened_elsewhere(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = builders.prepare(Data(path=write_features(), dir=str(tmp_path / "prepared")))
    original = flat._write

    def refuse_beside(builder: Any, split: str, folder: Path) -> Path:
        if (tmp_path / "prepared") in folder.parents:
            raise OSError(errno.EROFS, "Read-only file system", str(folder))
        return original(builder, split, folder)

    monkeypatch.setattr(flat, "_write", refuse_beside)
    monkeypatch.setattr(whole.tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
    assert len(store.load(builder, "valid", MODALITIES, 50)) == 20
    assert list((tmp_path / "elsewhere").rglob("index.json"))


def test_frames_are_read_in_any_order_and_number(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    whole.tofile(tmp_path / "frames")
    frames = flat.Frames(tmp_path / "frames", 3)
    assert len(frames) == 50
    read = frames.read(np.array([40, 3, 7]), np.array([10, 0, 2]))
    np.testing.assert_array_equal(read, np.concatenate([whole[40:50], whole[7:9]]))
    assert frames.read(np.array([], int), np.array([], int)).shape == (0, 3)
