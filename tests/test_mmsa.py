"""MMSA's pickles: lengths, masks, ids, checksums and what is refused."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax.data.sources import mmsa
from msa_jax.data.sources.mmsa import MmsaPickle
from msa_jax.errors import UserError
from tests import pickle_files
from tests.pickle_files import CHANNELS, MODALITIES, SPLITS, Content, changed, row_set


def opened(tmp_path: Path, content: Any, protocol: int = 4) -> MmsaPickle:
    return MmsaPickle(pickle_files.write(tmp_path / "mosei.pkl", content, protocol))


def lengths(source: MmsaPickle, split: str = "train") -> dict[str, list[int]]:
    found = list(source.utterances(split))
    return {m: [len(utterance.frames[m]) for utterance in found] for m in MODALITIES}


def assert_as_written(source: MmsaPickle, content: Content, aligned: bool) -> None:
    """Utterances in the file's order, each modality with its own length."""
    assert source.format == "mmsa"
    assert source.channels == CHANNELS
    assert tuple(source.splits) == ("train", "valid", "test")
    for split, arrays in content.items():
        for row, utterance in enumerate(source.utterances(split)):
            text, other = 2 + row % 4, 2 + row % 4 if aligned else 1 + row % 7
            for modality, count in (("text", text), ("audio", other), ("vision", other)):
                frames = utterance.frames[modality]
                assert frames.dtype == np.float32
                np.testing.assert_array_equal(frames, arrays[modality][row, :count])
            assert utterance.id == f"{split}{row // 3}$_${row % 3 + 1}"
            assert (utterance.video_id, utterance.segment) == (f"{split}{row // 3}", row % 3 + 1)
            assert utterance.score == arrays["regression_labels"][row]
            assert utterance.transcript == f"WORDS OF {row} É"
        assert row == SPLITS[split] - 1
    assert source.report.found == SPLITS
    assert source.report.dropped == []


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_every_protocol_and_key_order(tmp_path: Path, protocol: int, aligned: bool) -> None:
    content = pickle_files.mmsa(aligned)
    source = opened(tmp_path, pickle_files.shuffled(content, protocol), protocol)
    assert_as_written(source, content, aligned)


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_files_of_python_2(tmp_path: Path, protocol: int) -> None:
    content = pickle_files.mmsa()
    for arrays in content.values():
        arrays["raw_text"] = np.array([text.encode() for text in arrays["raw_text"]], object)
    (tmp_path / "a.pkl").write_bytes(
        pickle_files.python2(pickle_files.shuffled(content, 1), protocol)
    )
    assert_as_written(MmsaPickle(str(tmp_path / "a.pkl")), content, aligned=False)


def test_lengths_of_any_kind_of_number(tmp_path: Path) -> None:
    content = pickle_files.mmsa()
    expected = [1, 2, 3, 4, 5, 6]
    content["train"]["audio_lengths"] = np.array(expected, np.float64)[:, None]
    content["train"]["vision_lengths"] = [np.int16(length) for length in expected]
    content["train"]["text_bert"] = content["train"]["text_bert"].astype(np.int64)
    content["dev"] = content.pop("valid")
    source = opened(tmp_path, content)
    assert lengths(source) == {"text": [2, 3, 4, 5, 2, 3], "audio": expected, "vision": expected}
    assert lengths(source, "valid")["audio"] == [1, 2, 3]


def test_without_lengths_zeros_at_the_end_are_padding(tmp_path: Path) -> None:
    content = pickle_files.mmsa()
    for key in ("text_bert", "audio_lengths", "vision_lengths", "raw_text"):
        for arrays in content.values():
            del arrays[key]
    content["train"]["audio"][3, 1] = 0  # silence
    source = opened(tmp_path, content)
    assert lengths(source) == {
        "text": [5] * 6,
        "audio": [1, 2, 3, 4, 5, 6],
        "vision": [1, 2, 3, 4, 5, 6],
    }
    assert next(source.utterances("valid")).transcript == ""


def test_aligned_files_without_a_mask_end_together(tmp_path: Path) -> None:
    content = pickle_files.mmsa(aligned=True)
    for arrays in content.values():
        del arrays["text_bert"]
        arrays["text"] = np.where(arrays["audio"][..., :1] == 0, 0, arrays["text"])
    content["train"]["text"][2, 3] = 0  # the last of its four words has no vector
    expected = [2, 3, 4, 5, 2, 3]
    assert lengths(opened(tmp_path, content)) == dict.fromkeys(MODALITIES, expected)


def test_aligned_frames_padded_on_the_left_are_kept_and_noted(tmp_path: Path) -> None:
    content = pickle_files.mmsa(aligned=True)
    for arrays in content.values():
        for row, frames in enumerate(arrays["audio"]):
            arrays["audio"][row] = np.roll(frames, 3 - row % 4, axis=0)
    source = opened(tmp_path, content)
    for row, utterance in enumerate(source.utterances("train")):
        np.testing.assert_array_equal(
            utterance.frames["audio"], content["train"]["audio"][row, 3 - row % 4 :]
        )
        assert len(utterance.frames["vision"]) == len(utterance.frames["text"]) == 2 + row % 4
    (note,) = [note for note in source.report.notes if "left" in note]
    # Lengths run 2, 3, 4, 5, 2, ... of 5: 11 of the 13 utterances are padded.
    assert note.startswith("audio is taken to be padded on the left: so stand the zeros of 11 of")


def test_frames_beyond_a_length_are_counted(tmp_path: Path) -> None:
    content = pickle_files.mmsa()
    content["train"]["audio_lengths"] = [1, 1, 1, 4, 5, 6]
    source = opened(tmp_path, content)
    assert lengths(source)["audio"] == [1, 1, 1, 4, 5, 6]
    assert (
        "train: audio is not zero beyond its length in 2 of 6 utterances: those frames are left "
        "out." in source.report.notes
    )


def test_a_modality_of_zeros_or_of_length_0_is_absent(tmp_path: Path) -> None:
    content = pickle_files.mmsa()
    content["train"]["vision"][2] = 0
    content["train"]["audio_lengths"][1] = 0
    source = opened(tmp_path, content)
    found = lengths(source)
    assert found["vision"] == [1, 2, 0, 4, 5, 6]
    assert found["audio"] == [1, 0, 3, 4, 5, 6]
    assert "train: vision is all zeros, taken as absent, in 1 of 6 utterances." in (
        source.report.notes
    )


def test_what_is_not_finite_comes_through(tmp_path: Path) -> None:
    content = pickle_files.mmsa()
    content["train"]["audio"][2, 1] = [-np.inf, np.inf, np.nan, 1]
    frames = list(opened(tmp_path, content).utterances("train"))[2].frames["audio"]
    np.testing.assert_array_equal(frames[1], [-np.inf, np.inf, np.nan, 1])


def test_ids_that_occur_again_are_renamed_and_noted(tmp_path: Path) -> None:
    content = pickle_files.mmsa()
    content["train"]["id"] = ["a$_$0", "a$_$0", "b$_$1", "c", "a$_$0", "b$_$2"]
    source = opened(tmp_path, content)
    found = list(source.utterances("train"))
    assert [u.id for u in found] == ["a$_$0", "a$_$0#2", "b$_$1", "c", "a$_$0#3", "b$_$2"]
    # Some number is 0, so that all are counted from 0.
    assert [u.segment for u in found] == [1, 1, 2, 0, 1, 3]
    assert [u.video_id for u in found] == ["a", "a", "b", "c", "a", "b"]
    assert any("2 ids occurred before" in note for note in source.report.notes)


def test_published_files_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mosei.pkl"
    data = pickle.dumps(pickle_files.mmsa(), 4)
    path.write_bytes(data)

    def notes() -> list[str]:
        source = MmsaPickle(str(path))
        for split in source.splits:
            assert list(source.utterances(split))
        return source.report.notes

    sha256 = hashlib.sha256(data).hexdigest()
    assert notes() == [
        f"The checksum (SHA-256 {sha256[:12]}...) is none of those that MMSA published."
    ]
    monkeypatch.setitem(mmsa.PUBLISHED, sha256, "MOSI aligned_50.pkl")
    assert notes() == ["The checksum is that of MMSA's MOSI aligned_50.pkl."]


def test_the_scale_of_sims_is_noted(tmp_path: Path) -> None:
    content = pickle_files.mmsa()
    for arrays in content.values():
        arrays["regression_labels"] = arrays["regression_labels"] / 3
    source = opened(tmp_path, content)
    found = [utterance.score for utterance in source.utterances("train")]
    np.testing.assert_array_equal(
        np.array(found, np.float32), content["train"]["regression_labels"]
    )
    assert any("All scores are in [-1, 1]" in note for note in source.report.notes)


def _mask(values: Any) -> Callable[[Any], Any]:
    def change(tokens: np.ndarray) -> np.ndarray:
        tokens = tokens.copy()
        tokens[1, 1] = values
        return tokens

    return change


REFUSED: dict[str, tuple[Callable[[Content], Any], str]] = {
    "rows of vision": (changed("test", "vision", lambda a: a[:3]), "vision.*'test' has 3 rows.* 4"),
    "rows of labels": (
        changed("valid", "regression_labels", lambda a: a[:2]),
        "regression_labels.*'valid' has 2 rows.* 3",
    ),
    "rows of texts": (changed("valid", "raw_text", ["a"]), "raw_text.*'valid' has 1 rows.* 3"),
    "rows of lengths": (changed("test", "audio_lengths", [1]), "audio_lengths.*'test' has 1 rows"),
    "lengths of audio": (
        changed("train", "audio_lengths", row_set(3, 9)),
        r"audio_lengths.*'train'.*\[0, 8\].*1 rows: row 3.*remove audio_lengths",
    ),
    "negative length": (
        changed("train", "vision_lengths", row_set(0, -1)),
        "vision_lengths.*'train'",
    ),
    "half a length": (
        changed("train", "vision_lengths", row_set(0, 1.5)),
        "vision_lengths.*'train'",
    ),
    "length NaN": (
        changed("train", "vision_lengths", row_set(0, np.nan)),
        "vision_lengths.*'train'",
    ),
    "length in words": (
        changed("train", "vision_lengths", row_set(0, "1")),
        "vision_lengths.*'train'",
    ),
    "mask with a gap": (
        changed("train", "text_bert", _mask([1, 0, 1, 0, 0])),
        r"text_bert.*'train' has a mask .* in 1 rows, first in row 1",
    ),
    "mask on the left": (
        changed("train", "text_bert", _mask([0, 0, 1, 1, 1])),
        "not padded on the r",
    ),
    "mask of twos": (
        changed("train", "text_bert", _mask([2, 2, 0, 0, 0])),
        "text_bert.*'train'.*mask",
    ),
    "mask NaN": (
        changed("train", "text_bert", _mask([1, np.nan, 0, 0, 0])),
        "text_bert.*'train'.*mask",
    ),
    "tokens of other steps": (
        changed("valid", "text_bert", lambda a: a[:, :, :4]),
        r"text_bert.*'valid' is \(3, 3, 4\): expected numbers \(3, 3, 5\)",
    ),
    "tokens alone": (
        changed("valid", "text_bert", lambda a: a[:, 0]),
        r"text_bert.*'valid'.*\(3, 5\)",
    ),
    "tokens in lists": (changed("valid", "text_bert", lambda a: a.tolist()), "text_bert.* is list"),
    "texts that are none": (
        changed("valid", "raw_text", ["a", None, "c"]),
        r"raw_text.*rows \[1\]",
    ),
    "score too low": (
        changed("test", "regression_labels", row_set(2, -5.5)),
        r"regression_labels.*'test'.*-5.5 for 'test0\$_\$3'",
    ),
    "score NaN": (
        changed("test", "regression_labels", row_set(2, np.nan)),
        "labels.*'test'.*nan for",
    ),
    "channels": (
        changed("test", "text", lambda a: a[..., :3]),
        "text of split 'test' has 3 channels",
    ),
    "two dimensions": (changed("test", "text", lambda a: a[0]), r"text.*'test' has shape \(5, 6\)"),
    "no labels": (
        lambda c: c["test"].pop("regression_labels"),
        "'test' has no 'regression_labels'.*Did you mean 'classification_labels'",
    ),
    "no ids": (lambda c: c["valid"].pop("id"), "'valid' has no 'id'"),
    "no audio": (lambda c: c["train"].pop("audio"), "'train' has no 'audio'"),
    "no splits": (lambda c: [c.pop(split) for split in SPLITS], "none of the splits train, valid"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_split_and_the_key(tmp_path: Path, name: str) -> None:
    change, words = REFUSED[name]
    content = pickle_files.mmsa()
    change(content)
    with pytest.raises(UserError, match=words) as error:
        opened(tmp_path, content)
    assert str(tmp_path / "mosei.pkl") in str(error.value)
