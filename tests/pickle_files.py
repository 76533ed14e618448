"""Writes pickles of the field's layouts, as the tools in the wild do; knows nothing of the readers.

Python 3's own pickler writes protocols 0 to 5. Python 2 is not at hand: `python2` writes the
instructions that its cPickle wrote, after the documentation in `pickletools`.
"""

import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Content = dict[str, dict[str, Any]]
MODALITIES = ("text", "audio", "vision")
CHANNELS = {"text": 6, "audio": 4, "vision": 3}
SPLITS = {"train": 6, "valid": 3, "test": 4}


def write(path: Path, content: Any, protocol: int = 4) -> str:
    """Writes with this Python's pickler."""
    path.write_bytes(pickle.dumps(content, protocol))
    return str(path)


def scores(count: int, seed: int = 0) -> np.ndarray:
    """Scores [N] as three annotators give them: multiples of 1/3 in [-3, 3]."""
    thirds = np.random.default_rng(seed).integers(-9, 10, count)
    return (thirds / 3).astype(np.float32)


def sequences(count: int, steps: int, channels: int, lengths: Any, side: str, seed: int) -> Any:
    """Frames [N, T, C] float32 of no zeros, padded with zeros on the left or right."""
    rng = np.random.default_rng(seed)
    frames = rng.uniform(0.5, 1.5, (count, steps, channels)).astype(np.float32)
    for row, length in enumerate(lengths):
        if side == "left":
            frames[row, : steps - length] = 0
        else:
            frames[row, length:] = 0
    return frames


def multibench(
    side: str = "left", steps: int = 5, other_steps: int | None = None, sizes: Any = None
) -> dict[str, dict[str, Any]]:
    """MultiBench's layout: labels [N, 1, 1] and ids `video[k]`; lengths run 1, 2, ... T, 1, ...

    Args:
      side: of the padding.
      steps: T of text.
      other_steps: T of audio and vision where they are not aligned with text.
      sizes: `{split: N}`.
    """
    content = {}
    for seed, (split, count) in enumerate((sizes or SPLITS).items()):
        lengths = [1 + row % steps for row in range(count)]
        arrays = {}
        for modality in ("vision", "audio", "text"):
            own = steps if modality == "text" or other_steps is None else other_steps
            arrays[modality] = sequences(count, own, CHANNELS[modality], lengths, side, seed)
        content[split] = {
            **arrays,
            "labels": scores(count, seed).reshape(-1, 1, 1),
            "id": np.array([f"{split}{row // 3}[{row % 3}]" for row in range(count)]),
        }
    return content


def mmsa(aligned: bool = False, sizes: Any = None) -> dict[str, dict[str, Any]]:
    """MMSA's layout; text's lengths run 2, 3, 4, 5, 2, ..., audio's and vision's (unaligned) less.

    Text is not zero in its padding, as BERT leaves it.
    """
    content = {}
    for seed, (split, count) in enumerate((sizes or SPLITS).items()):
        rng = np.random.default_rng(seed)
        lengths = [2 + row % 4 for row in range(count)]
        others = lengths if aligned else [1 + row % 7 for row in range(count)]
        steps = {"text": 5, "audio": 5 if aligned else 8, "vision": 5 if aligned else 7}
        mask = (np.arange(5) < np.array(lengths)[:, None]).astype(np.float32)
        tokens = np.stack([rng.integers(1, 99, mask.shape) * mask, mask, 0 * mask], axis=1)
        content[split] = {
            "raw_text": np.array([f"WORDS OF {row} É" for row in range(count)]),
            "audio": sequences(count, steps["audio"], CHANNELS["audio"], others, "right", seed),
            "vision": sequences(count, steps["vision"], CHANNELS["vision"], others, "right", seed),
            "id": [f"{split}{row // 3}$_${row % 3 + 1}" for row in range(count)],
            "text": sequences(count, 5, CHANNELS["text"], [5] * count, "right", seed),
            "text_bert": tokens.astype(np.float32),
            "annotations": ["Neutral"] * count,
            "classification_labels": np.ones(count),
            "regression_labels": scores(count, seed),
        }
        if not aligned:
            content[split] |= {"audio_lengths": list(others), "vision_lengths": list(others)}
    return content


def shuffled(content: Any, seed: int) -> Any:
    """The same with every dictionary in another order."""
    if not isinstance(content, dict):
        return content
    keys = random.Random(seed).sample(list(content), len(content))
    return {key: shuffled(content[key], seed) for key in keys}


def changed(split: str, key: str, value: Any) -> Callable[[Content], None]:
    """Sets an entry of a split, to a value or to what a function makes of the one there."""

    def change(content: Content) -> None:
        part = content[split]
        part[key] = value(part[key]) if callable(value) else value

    return change


def row_set(row: int, value: Any) -> Callable[[Any], Any]:
    """Sets a row of an array or list, for `changed`."""

    def change(values: Any) -> Any:
        values = values.copy()
        values[row] = value
        return values

    return change


def python2(content: Any, protocol: int = 2) -> bytes:
    """The pickle that Python 2 wrote of the content: its `str` for str and bytes alike.

    Text that is not ASCII becomes `unicode`. Protocols 0 to 2.
    """
    writer = _Python2(protocol)
    writer.save(content)
    return (b"\x80\x02" if protocol == 2 else b"") + b"".join(writer.parts) + b"."


class _Python2:
    def __init__(self, protocol: int) -> None:
        self.protocol = protocol
        self.parts: list[bytes] = []
        self.memo: dict[Any, int] = {}

    def save(self, value: Any) -> None:
        if value is None:
            self.parts.append(b"N")
        elif isinstance(value, bool):
            old = b"I01\n" if value else b"I00\n"
            self.parts.append((b"\x88" if value else b"\x89") if self.protocol == 2 else old)
        elif isinstance(value, int):
            self._integer(value)
        elif isinstance(value, float):
            old = f"F{value!r}\n".encode()
            self.parts.append(old if self.protocol == 0 else b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            if value.isascii():
                self._string(value.encode())
            else:
                self._unicode(value)
        elif isinstance(value, bytes):
            self._string(value)
        elif isinstance(value, tuple):
            self._tuple(value)
        elif isinstance(value, list):
            self.parts.append(b"(l" if self.protocol == 0 else b"]")
            self._put()
            for item in value:
                self.save(item)
                self.parts.append(b"a")
        elif isinstance(value, dict):
            self.parts.append(b"(d" if self.protocol == 0 else b"}")
            self._put()
            for key, item in value.items():
                self.save(key)
                self.save(item)
                self.parts.append(b"s")
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, np.generic):
            self._global(b"numpy.core.multiarray", b"scalar")
            self._scalar(value)
        else:
            raise TypeError(type(value))

    def _put(self) -> None:
        index = len(self.memo) + 1
        self.memo[index] = index
        if self.protocol == 0:
            self.parts.append(b"p%d\n" % index)
        elif index < 256:
            self.parts.append(b"q" + bytes([index]))
        else:
            self.parts.append(b"r" + struct.pack("<I", index))

    def _integer(self, value: int) -> None:
        if self.protocol == 0:
            self.parts.append(b"I%d\n" % value)
        elif 0 <= value < 256:
            self.parts.append(b"K" + bytes([value]))
        elif 0 <= value < 65536:
            self.parts.append(b"M" + struct.pack("<H", value))
        else:
            self.parts.append(b"J" + struct.pack("<i", value))

    def _string(self, value: bytes) -> None:
        if self.protocol == 0:
            # The repr of a Python 2 str: that of bytes without the b.
            self.parts.append(b"S" + repr(value)[1:].encode() + b"\n")
        elif len(value) < 256:
            self.parts.append(b"U" + bytes([len(value)]) + value)
        else:
            self.parts.append(b"T" + struct.pack("<i", len(value)) + value)
        self._put()

    def _unicode(self, value: str) -> None:
        data = value.encode("utf-8")
        if self.protocol == 0:
            self.parts.append(b"V" + value.encode("raw-unicode-escape") + b"\n")
        else:
            self.parts.append(b"X" + struct.pack("<I", len(data)) + data)
        self._put()

    def _tuple(self, items: tuple[Any, ...]) -> None:
        if not items and self.protocol:
            self.parts.append(b")")
            return
        short = self.protocol == 2 and len(items) <= 3
        self.parts.append(b"" if short else b"(")
        for item in items:
            self.save(item)
        self.parts.append(bytes([0x84 + len(items)]) if short else b"t")
        self._put()

    def _global(self, module: bytes, name: bytes) -> None:
        self.parts.append(b"c" + module + b"\n" + name + b"\n")
        self._put()

    def _dtype(self, dtype: np.dtype) -> None:
        self._global(b"numpy", b"dtype")
        self._tuple((dtype.str[1:] if dtype.kind != "O" else "O8", 0, 1))
        self.parts.append(b"R")
        self._put()
        size, flags = -1, 0
        if dtype.kind in "SU":
            size, flags = dtype.itemsize, 8 if dtype.kind == "U" else 0
        elif dtype.kind == "O":
            flags = 63
        align = 4 if dtype.kind == "U" else 1 if dtype.kind == "S" else -1
        self._tuple((3, dtype.str[0], None, None, None, size, align, flags))
        self.parts.append(b"b")

    def _scalar(self, value: np.generic) -> None:
        self.parts.append(b"(")
        self._dtype(value.dtype)
        self._string(value.tobytes())
        self.parts.append(b"tR")
        self._put()

    def _array(self, value: np.ndarray) -> None:
        self._global(b"numpy.core.multiarray", b"_reconstruct")
        self.parts.append(b"(")
        self._global(b"numpy", b"ndarray")
        self._tuple((0,))
        self._string(b"b")
        self.parts.append(b"tR")
        self._put()
        fortran = value.flags.fnc
        self.parts.append(b"(")
        self.save(1)
        self._tuple(value.shape)
        self._dtype(value.dtype)
        self.save(bool(fortran))
        if value.dtype == object:
            self.save(value.reshape(-1, order="F" if fortran else "C").tolist())
        else:
            self._string(value.tobytes("F" if fortran else "C"))
        self.parts.append(b"tb")
