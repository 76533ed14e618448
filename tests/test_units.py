"""Batches of whole videos: which rows they hold, and in what order."""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from msa_jax import config, sharding
from msa_jax.data import buckets, dataset, feed, order, units
from msa_jax.tasks import Task
from tests.conftest import features

IDS = ["b", "a", "b", "c", "a", "b"]
LENGTHS = {"text": np.array([5, 1, 9, 0, 3, 2]), "audio": np.ones(6, np.int64)}


@pytest.fixture
def loaded(write_features: Callable[..., str]) -> dataset.Dataset:
    names = np.repeat([f"video{i}" for i in range(100)], np.arange(100) % 7 + 1)[:100]
    segments = np.random.default_rng(0).permutation(100)
    path = write_features(video_id=names, segment=segments)
    return dataset.load(config.Data(path=path, buckets=3), of_videos=True)


def test_videos_hold_their_utterances_by_segment() -> None:
    found = units.of_videos(LENGTHS, IDS, np.array([2, 1, 1, 1, 2, 3]))
    assert found.rows.tolist() == [[2, 0, 5], [1, 4, -1], [3, -1, -1]]
    assert found.sizes.tolist() == [3, 2, 1]
    assert found.lengths["text"].tolist() == [9, 3, 0]
    assert found.lengths["audio"].tolist() == [1, 1, 1]


def test_utterances_of_unknown_segment_keep_the_order_of_the_data() -> None:
    found = units.of_videos(LENGTHS, IDS, np.zeros(6, int))
    assert found.rows.tolist() == [[0, 2, 5], [1, 4, -1], [3, -1, -1]]


def test_videos_are_grouped_by_their_utterances() -> None:
    sizes = np.random.default_rng(0).integers(1, 40, 200)
    names = np.repeat([str(i) for i in range(200)], sizes)
    lengths = {"text": np.random.default_rng(1).integers(1, 50, len(names))}
    videos = units.of_videos(lengths, names, np.zeros(len(names), int))
    grouped = buckets.fit(videos, 3, of_videos=True)
    assigned = grouped.assign(videos)
    assert grouped.of_videos
    assert len(grouped.utterances) == 3
    assert list(grouped.utterances) == sorted(grouped.utterances)
    for video, bucket in enumerate(assigned):
        assert videos.sizes[video] <= grouped.utterances[bucket]
        assert videos.lengths["text"][video] <= grouped.lengths[bucket]["text"]
    computed = sum(grouped.utterances[bucket] for bucket in assigned)
    assert sizes.sum() / computed > 0.75
    assert sizes.sum() / (len(sizes) * sizes.max()) < 0.6, "without groups"


def test_every_epoch_visits_every_utterance_once_within_its_video(
    loaded: dataset.Dataset,
) -> None:
    train = loaded.splits["train"]
    plan = order.TrainOrder(loaded.units["train"], loaded.buckets["train"], 4, seed=1)
    seen = []
    for step in range(plan.steps_per_epoch):
        selection = plan(step)
        rows = selection.rows.reshape(4, -1)
        assert rows.shape[1] == loaded.buckets["train"].utterances[selection.bucket]
        for video in rows:
            own = video[video >= 0]
            assert (video[len(own) :] == -1).all(), "fillers come last"
            assert len({train.video_ids[row] for row in own}) <= 1
            assert (np.diff(train.segments[own]) > 0).all()
        seen.append(rows[rows >= 0])
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(train)))


@pytest.mark.parametrize("split", ["train", "valid"])
def test_both_feeds_give_the_same_videos(loaded: dataset.Dataset, split: str) -> None:
    place = sharding.over_data(sharding.build_mesh(config.Mesh()))
    rows, grouped = loaded.splits[split], loaded.buckets[split]
    plan = order.EvalOrder(loaded.units[split], grouped, 4)
    task = Task(kind="regression")
    stream, resident = (
        list(feed.build(rows, task, grouped, place, how=how)(plan, 0, len(plan)))
        for how in ("stream", "resident")
    )
    for index, (first, second) in enumerate(zip(stream, resident, strict=True)):
        utterances = grouped.utterances[plan(index).bucket]
        assert first["utterance_mask"].shape == (4, utterances)
        assert first["text"].shape[0] == 4 * utterances
        np.testing.assert_array_equal(first["utterance_mask"].reshape(-1), first["example_mask"])
        jax.tree.map(np.testing.assert_array_equal, first, second)


def test_segments_come_from_the_features_file(write_features: Callable[..., str]) -> None:
    segments = np.arange(100) % 4 + 1
    loaded = dataset.load(config.Data(path=write_features(segment=segments)))
    assert features()["split"][0] == "train"
    np.testing.assert_array_equal(loaded.splits["train"].segments, segments[:60])
