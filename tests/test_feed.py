"""Batches: what they hold, whatever feeds them and however many processes share them."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from msa_jax import config, sharding
from msa_jax.data import dataset, feed, order, pipeline
from msa_jax.tasks import Task
from tests.conftest import CHANNELS

TASK = Task(kind="three_class")


@pytest.fixture
def loaded(write_features: Callable[..., str]) -> dataset.Dataset:
    return dataset.load(config.Data(path=write_features(), buckets=3))


def train_order(loaded: dataset.Dataset, seed: int = 0) -> order.TrainOrder:
    return order.TrainOrder(loaded.units["train"], loaded.buckets["train"], 16, seed)


def batches(
    loaded: dataset.Dataset, plan: order.Order, first: int, last: int, **share: Any
) -> list[dict[str, np.ndarray]]:
    train = loaded.splits["train"]
    found: Iterator[dict[str, np.ndarray]] = pipeline.batches(
        train, TASK, plan, loaded.buckets["train"], first=first, last=last, **share
    )
    return list(found)


def assert_same(first: Any, second: Any) -> None:
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_batch_contract(loaded: dataset.Dataset) -> None:
    plan = train_order(loaded)
    for step, batch in enumerate(batches(loaded, plan, 0, 8)):
        lengths = loaded.buckets["train"].lengths[plan(step).bucket]
        real = batch["example_mask"]
        assert (batch["score"].dtype, batch["label"].dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(batch["label"][real], TASK.labels(batch["score"][real]))
        for modality, channels in CHANNELS.items():
            assert batch[modality].shape == (16, lengths[modality], channels)
            assert batch[modality].dtype == np.float32
            mask = batch[f"{modality}_mask"]
            assert mask.dtype == bool
            assert not batch[modality][~mask].any()
            assert not mask[~real].any(), "what fills a batch up has no frame"
            assert (np.diff(mask.astype(int), axis=1) <= 0).all(), "padding is at the end"


def test_batches_hold_the_rows_that_the_order_says(loaded: dataset.Dataset) -> None:
    plan, train = train_order(loaded), loaded.splits["train"]
    for step, batch in enumerate(batches(loaded, plan, 0, 4)):
        for place, row in enumerate(plan(step).rows):
            if row < 0:
                continue
            for modality in CHANNELS:
                kept = batch[modality][place][batch[f"{modality}_mask"][place]]
                np.testing.assert_array_equal(kept, train.frames(modality, np.array([row])))
            assert batch["score"][place] == train.scores[row]


def test_steps_do_not_depend_on_where_reading_began(loaded: dataset.Dataset) -> None:
    whole = batches(loaded, train_order(loaded), 0, 9)
    for first, second in zip(whole[5:], batches(loaded, train_order(loaded), 5, 9), strict=True):
        assert_same(first, second)


def test_processes_share_the_same_global_batches(loaded: dataset.Dataset) -> None:
    plan = train_order(loaded)
    parts = [
        batches(loaded, plan, 0, 5, share=lambda rows, i=i: np.split(rows, 4)[i]) for i in range(4)
    ]
    for step, batch in enumerate(batches(loaded, plan, 0, 5)):
        joined = {name: np.concatenate([part[step][name] for part in parts]) for name in batch}
        assert_same(batch, joined)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_both_feeds_give_the_same_bits(loaded: dataset.Dataset, split: str) -> None:
    place = sharding.over_data(sharding.build_mesh(config.Mesh()))
    rows = loaded.splits[split]
    plan = order.EvalOrder(loaded.units[split], loaded.buckets[split], 16)
    stream, resident = (
        list(feed.build(rows, TASK, loaded.buckets[rows.name], place, how=how)(plan, 0, len(plan)))
        for how in ("stream", "resident")
    )
    for first, second in zip(stream, resident, strict=True):
        assert_same(first, second)
        for name in first:
            assert first[name].dtype == second[name].dtype
            assert first[name].sharding == second[name].sharding


def test_a_modality_without_any_frame_can_be_resident(write_features: Callable[..., str]) -> None:
    path = write_features(vision_length=np.zeros(100, int))
    loaded = dataset.load(config.Data(path=path))
    place = sharding.over_data(sharding.build_mesh(config.Mesh()))
    rows = loaded.splits["train"]
    plan = order.EvalOrder(loaded.units["train"], loaded.buckets["train"], 60)
    (batch,) = feed.build(rows, TASK, loaded.buckets[rows.name], place, how="resident")(plan, 0, 1)
    assert not batch["vision"].any()
    assert not batch["vision_mask"].any()


def test_the_resident_feed_compiles_once_for_each_shape(loaded: dataset.Dataset) -> None:
    plan = train_order(loaded)
    buckets = {plan(step).bucket for step in range(12)}
    place = sharding.over_data(sharding.build_mesh(config.Mesh()))
    made = feed.build(loaded.splits["train"], TASK, loaded.buckets["train"], place, how="resident")
    traced = []

    def listen(event: str, seconds: float, **about: Any) -> None:
        if event.endswith("jaxpr_trace_duration") and "_gather" in about["fun_name"]:
            traced.append(seconds)

    jax.clear_caches()  # other tests made the same shapes
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for _ in range(2):
            assert len(list(made(plan, 0, 12))) == 12
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(traced) == len(buckets) > 1


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(slice(None), slice(0, 4)), (slice(None), slice(4, 8))], np.s_[:, :]),
        ([(slice(1, 2), slice(4, 8)), (slice(1, 2), slice(4, 8))], np.s_[1:2, 4:]),  # copies
        ([(slice(None), slice(6, 8)), (slice(None), slice(0, 2))], np.s_[:, [0, 1, 6, 7]]),
    ],
)
def test_a_process_reads_the_rows_of_its_devices(places: list[Any], expected: Any) -> None:
    class Sharding:
        def addressable_devices_indices_map(self, shape: tuple[int, ...]) -> dict[int, Any]:
            assert shape == (2, 8)
            return dict(enumerate(places))

    rows = np.arange(16).reshape(2, 8)
    found = feed.own_rows(Sharding(), rows)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, rows[expected])
