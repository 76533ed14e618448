"""MultiBench's pickles: ids, padding, labels and what is refused."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax.data.schema import Utterance
from msa_jax.data.sources.multibench import MultiBenchPickle
from msa_jax.errors import UserError
from tests import pickle_files
from tests.pickle_files import CHANNELS, MODALITIES, SPLITS, Content, changed, row_set


def opened(tmp_path: Path, content: Any, protocol: int = 4) -> MultiBenchPickle:
    return MultiBenchPickle(pickle_files.write(tmp_path / "mosei.pkl", content, protocol))


def by_id(source: MultiBenchPickle) -> dict[str, Utterance]:
    return {u.id: u for split in source.splits for u in source.utterances(split)}


def assert_as_written(source: MultiBenchPickle, content: Content) -> None:
    """Utterances in the file's order with the frames from the text's first step on."""
    assert source.format == "multibench"
    assert source.channels == CHANNELS
    assert tuple(source.splits) == ("train", "valid", "test")
    for split, arrays in content.items():
        found = list(source.utterances(split))
        assert [u.id for u in found] == arrays["id"].tolist()
        for row, utterance in enumerate(found):
            start = 4 - row % 5  # lengths run 1, 2, 3, 4, 5, 1, ...
            for modality in MODALITIES:
                frames = utterance.frames[modality]
                assert frames.dtype == np.float32
                np.testing.assert_array_equal(frames, arrays[modality][row, start:])
            assert utterance.score == arrays["labels"][row, 0, 0]
            assert (utterance.video_id, utterance.segment) == (f"{split}{row // 3}", row % 3 + 1)
            assert math.isnan(utterance.start)
            assert math.isnan(utterance.end)
            assert utterance.transcript == ""
    assert source.report.found == SPLITS
    assert source.report.dropped == []


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_every_protocol_and_key_order(tmp_path: Path, protocol: int) -> None:
    content = pickle_files.multibench()
    assert_as_written(opened(tmp_path, pickle_files.shuffled(content, protocol), protocol), content)


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_files_of_python_2(tmp_path: Path, protocol: int) -> None:
    content = pickle_files.multibench()
    (tmp_path / "a.pkl").write_bytes(
        pickle_files.python2(pickle_files.shuffled(content, 1), protocol)
    )
    assert_as_written(MultiBenchPickle(str(tmp_path / "a.pkl")), content)


@pytest.mark.parametrize("kind", ["strings", "bytes", "python 2", "objects", "list", "numbers"])
def test_clips_are_numbered_by_their_start_over_the_whole_file(tmp_path: Path, kind: str) -> None:
    rows = {
        "train": [("b é", 7.25, 9.0), ("a", 10.0, 12.5), ("b é", 0.5, 3.0)],
        "test": [("b é", 3.0, 7.25)],
    }
    content = pickle_files.multibench(sizes={"train": 3, "test": 1})
    for split, found in rows.items():
        texts = [[name, str(start), str(end)] for name, start, end in found]
        content[split]["id"] = {
            "strings": np.array(texts),
            "bytes": np.array([[text.encode() for text in row] for row in texts]),
            "python 2": np.array([[text.encode() for text in row] for row in texts], object),
            "objects": np.array(texts, object),
            "list": [tuple(row) for row in texts],
            "numbers": [[name, start, np.float64(end)] for name, start, end in found],
        }[kind]
    path = tmp_path / "a.pkl"
    path.write_bytes(
        pickle_files.python2(content) if kind == "python 2" else pickle.dumps(content, 4)
    )
    source = MultiBenchPickle(str(path))
    found_ids = {split: [u.id for u in source.utterances(split)] for split in source.splits}
    assert found_ids == {"train": ["b é[2]", "a[0]", "b é[0]"], "test": ["b é[1]"]}
    clip = by_id(source)["b é[2]"]
    assert (clip.video_id, clip.segment, clip.start, clip.end) == ("b é", 3, 7.25, 9.0)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["v[3]", "v[10]", "w[1]"], [("v", 3), ("v", 10), ("w", 1)]),
        (["v[3]", "v[0]", "w[1]"], [("v", 4), ("v", 1), ("w", 2)]),
        (["v$_$3", "-a$_$b$_$10", "w_1"], [("v", 3), ("-a$_$b", 10), ("w_1", 0)]),
        (["v_3", "v_2", "w_x_1"], [("v", 3), ("v", 2), ("w_x", 1)]),
        ([7, 8, 9], [("7", 0), ("8", 0), ("9", 0)]),
        (["v[3][4]", "[1]", "$_$"], [("v[3]", 4), ("[1]", 0), ("$_$", 0)]),
    ],
)
def test_names_tell_video_and_segment(
    tmp_path: Path, names: list[Any], expected: list[tuple[str, int]]
) -> None:
    content = pickle_files.multibench(sizes={"train": 3})
    content["train"]["id"] = names
    found = by_id(opened(tmp_path, content))
    assert list(found) == [str(name) for name in names]
    assert [(u.video_id, u.segment) for u in found.values()] == expected


def test_utterances_without_text_are_dropped_and_counted(tmp_path: Path) -> None:
    content = pickle_files.multibench()
    content["train"]["text"][[1, 4]] = 0
    content["test"]["text"][0] = 0
    source = opened(tmp_path, content)
    found = by_id(source)
    assert len(found) == sum(SPLITS.values()) - 3
    assert source.report.found == SPLITS
    dropped = [(entry.id, entry.split, entry.reason) for entry in source.report.dropped]
    assert dropped == [
        ("train0[1]", "train", "no text"),
        ("train1[1]", "train", "no text"),
        ("test0[0]", "test", "no text"),
    ]


def test_dev_is_valid_and_splits_may_be_missing(tmp_path: Path) -> None:
    content = pickle_files.multibench()
    content["dev"] = content.pop("valid")
    del content["test"]
    source = opened(tmp_path, {**content, "notes": ["what else is there"]})
    assert source.splits == ("train", "valid")
    assert len(list(source.utterances("valid"))) == 3


def test_a_modality_of_zeros_alone_is_absent_but_silent_frames_stay(tmp_path: Path) -> None:
    content = pickle_files.multibench()
    content["train"]["vision"][[0, 4]] = 0
    content["train"]["audio"][4, [0, 4]] = 0
    source = opened(tmp_path, content)
    found = list(source.utterances("train"))
    assert [len(u.frames["vision"]) for u in found] == [0, 2, 3, 4, 0, 1]
    assert found[0].frames["vision"].shape == (0, CHANNELS["vision"])
    np.testing.assert_array_equal(found[4].frames["audio"], content["train"]["audio"][4])
    (note,) = [note for note in source.report.notes if "absent" in note]
    assert note == "train: vision is all zeros, taken as absent, in 2 of 6 utterances."


def test_padding_on_the_right_is_recognised(tmp_path: Path) -> None:
    content = pickle_files.multibench(side="right")
    content["train"]["text"][3, 3] = 0  # a word without a vector is no padding
    source = opened(tmp_path, content)
    for split, arrays in content.items():
        for row, utterance in enumerate(source.utterances(split)):
            for modality in MODALITIES:
                expected = arrays[modality][row, : 1 + row % 5]
                np.testing.assert_array_equal(utterance.frames[modality], expected)
    assert "taken to stand on the right" in source.report.notes[0]


def test_modalities_that_are_not_aligned_are_cut_each_on_its_own(tmp_path: Path) -> None:
    content = pickle_files.multibench(other_steps=9)
    content["train"]["audio"][0, 6:] = 1
    (first, *_) = opened(tmp_path, content).utterances("train")
    assert {m: len(frames) for m, frames in first.frames.items()} == {
        "vision": 1,
        "audio": 3,
        "text": 1,
    }


def test_what_is_not_finite_comes_through(tmp_path: Path) -> None:
    content = pickle_files.multibench()
    audio = content["train"]["audio"].astype(np.float64)
    audio[2, 3] = [-np.inf, np.inf, np.nan, 1e300]
    content["train"]["audio"] = audio
    frames = list(opened(tmp_path, content).utterances("train"))[2].frames["audio"]
    np.testing.assert_array_equal(frames[1], [-np.inf, np.inf, np.nan, np.inf])


def test_a_nan_that_warns_does_not_stop_reading(tmp_path: Path) -> None:
    content = pickle_files.multibench()
    content["train"]["text"].view(np.uint32)[0, 4, 0] = 0x7FA00000
    content["train"]["labels"].view(np.uint32)[1] = 0x7FA00000
    with pytest.raises(UserError, match=r"labels.*nan for 'train0\[1\]'"):
        opened(tmp_path, content)
    content["train"]["labels"][1] = 0
    (first, *_) = opened(tmp_path, content).utterances("train")
    assert np.isnan(first.frames["text"][0, 0])


def test_ids_that_occur_again_are_renamed_and_noted(tmp_path: Path) -> None:
    content = pickle_files.multibench()
    content["train"]["id"] = np.array(["a[1]", "a[1]", "a[1]#2", "b[1]", "a[1]", "c[1]"])
    source = opened(tmp_path, content)
    found = list(source.utterances("train"))
    assert [u.id for u in found] == ["a[1]", "a[1]#3", "a[1]#2", "b[1]", "a[1]#4", "c[1]"]
    assert [u.video_id for u in found] == ["a", "a", "a[1]#2", "b", "a", "c"]
    assert "train: 2 ids occurred before in the split and were renamed: a[1]#3, a[1]#4." in (
        source.report.notes
    )


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 1, 1), (6, 7), (6, 1, 7)])
def test_labels_of_every_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = pickle_files.multibench(sizes={"train": 6})
    scores = pickle_files.scores(6, seed=5)
    labels = np.full(shape, 9.0)  # emotions have a range of their own
    labels.reshape(6, -1)[:, 0] = scores
    content["train"]["labels"] = labels
    found = [u.score for u in opened(tmp_path, content).utterances("train")]
    np.testing.assert_array_equal(np.array(found, np.float32), scores)


def test_raw_labels_beyond_the_range_are_clipped_and_noted(tmp_path: Path) -> None:
    content = pickle_files.multibench()
    content["test"]["labels"][1:3, 0, 0] = 10 / 3, -5
    source = opened(tmp_path, content)
    assert [u.score for u in source.utterances("test")][1:3] == [3.0, -3.0]
    assert "test: 2 scores were clipped to [-3, 3]: 3.333 of 'test0[1]', -5 of 'test0[2]'." in (
        source.report.notes
    )


def _split_of_a_list(content: Any) -> None:
    content["test"] = [1]


REFUSED: dict[str, tuple[Callable[[Content], Any], str]] = {
    "rows of audio": (
        changed("valid", "audio", lambda a: a[:2]),
        "audio.*'valid'.*2 rows.*text has 3",
    ),
    "rows of labels": (changed("test", "labels", lambda a: a[:3]), "labels.*'test'.*3 rows.* 4"),
    "rows of ids": (changed("test", "id", lambda a: a[:3]), "id of split 'test' has 3 rows.* 4"),
    "one utterance too flat": (
        changed("train", "vision", lambda a: a[:, 0]),
        r"vision.*'train'.*\(6, 3\).*expected numbers \[N, T, C\]",
    ),
    "frames in lists": (changed("train", "text", [[1.0]]), r"text.*'train' is a list.*array"),
    "frames of strings": (changed("train", "text", lambda a: a.astype(str)), "text.*'train'.*<U"),
    "no step": (changed("train", "text", lambda a: a[:, :0]), r"text.*'train'.*\(6, 0, 6\)"),
    "channels": (
        changed("test", "audio", lambda a: a[..., :3]),
        "audio.*'test' has 3 channels.* 4",
    ),
    "score too high": (
        changed("valid", "labels", row_set(1, 5.5)),
        r"labels.*'valid' is outside \[-3, 3\].* 1 of 3 rows: 5.5 for 'valid0\[1\]'",
    ),
    "score NaN": (
        changed("valid", "labels", row_set(2, np.nan)),
        r"labels.*'valid'.*nan for 'valid0\[2",
    ),
    "labels of strings": (
        changed("valid", "labels", lambda a: a.astype(str)),
        "labels.*'valid' is <U.*numbers",
    ),
    "six labels": (
        changed("valid", "labels", np.zeros((3, 6))),
        r"labels.*'valid'.*\(3, 6\).*7 col",
    ),
    "one label": (changed("valid", "labels", np.array(1.0)), "labels.*'valid' has 0 rows"),
    "no labels": (lambda c: c["test"].pop("labels"), "'test' has no 'labels'.*Known: .*vision"),
    "no vision": (lambda c: c["train"].pop("vision"), "'train' has no 'vision'"),
    "another name": (
        lambda c: c["train"].update(visual=c["train"].pop("vision")),
        "'train' has no 'vision'. Did you mean 'visual'",
    ),
    "pairs as ids": (changed("train", "id", np.zeros((6, 2))), r"id.*'train'.*\(6, 2\)"),
    "no name": (
        changed("train", "id", ["a", "b", None, "d", "e", "f"]),
        r"id.*'train'.*rows \[2\]",
    ),
    "empty name": (changed("train", "id", row_set(4, "")), r"id.*'train'.*no name in rows \[4\]"),
    "long name": (changed("train", "id", ["a" * 201] * 6), r"id.*'train'.*no name in rows \[0, 1"),
    "no seconds": (
        changed("test", "id", np.array([["v", "0", "1"], ["v", "1", "?"]] * 2)),
        "id.*'test' has no start and end in seconds beside 'v'",
    ),
    "infinite seconds": (changed("test", "id", [["v", "0", "inf"]] * 4), "id.*'test'.*seconds"),
    "no splits": (lambda c: [c.pop(split) for split in SPLITS], "none of the splits train, valid"),
    "split twice": (lambda c: c.update(dev=c["valid"]), "valid twice, as 'valid' and 'dev'"),
    "split is a list": (_split_of_a_list, "'test' is a list: expected a dict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_split_and_the_key(tmp_path: Path, name: str) -> None:
    change, words = REFUSED[name]
    content = pickle_files.multibench()
    change(content)
    with pytest.raises(UserError, match=words) as error:
        opened(tmp_path, content)
    assert str(tmp_path / "mosei.pkl") in str(error.value)
