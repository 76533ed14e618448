"""What the arrays of a pickle are until it has been read, and how they become plain data.

Nothing here can be called, and nothing of what a file says is believed: shapes, types and sizes are
checked against the bytes before NumPy sees any of them.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

# Far above any feature file: arrays hold the numbers, and an array counts as one.
MOST_VALUES = 30_000_000
_DEEPEST = 60
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU][0-9]{1,8}|O[48]?")


@dataclasses.dataclass(slots=True, eq=False)
class Global:
    """A function or class that the file names: a label and nothing that can be called."""

    name: str


@dataclasses.dataclass(slots=True, eq=False)
class Dtype:
    """A NumPy type to be: its code such as f4, and its byte order, once known."""

    code: str
    order: str = ""


@dataclasses.dataclass(slots=True, eq=False)
class Array:
    """A NumPy array to be, or a scalar; without data until they have been read."""

    shape: Any = None
    dtype: Dtype | None = None
    data: Any = None
    order: Any = "C"
    axes: Any = None
    scalar: bool = False


@dataclasses.dataclass(slots=True, eq=False)
class Text:
    """A long string, decoded when it is needed: bytes of protocol 2 are needed only as bytes."""

    view: memoryview

    def decoded(self) -> str:
        return str(self.view, "utf-8", "surrogatepass")


class Converter:
    """From what the machine left on its stack to plain data; every object once, however shared."""

    def __init__(self, spend: Callable[[int], None]) -> None:
        self._spend = spend
        self._done: dict[int, tuple[Any, int] | None] = {}

    def plain(self, value: Any, depth: int) -> tuple[Any, int]:
        """The plain value, and how many values it unfolds to."""
        if isinstance(value, str | bytes | float | bool | None):
            return value, 1
        if isinstance(value, int):
            if value.bit_length() > 64:
                raise ValueError("it holds an integer of more than 64 bits")
            return value, 1
        if id(value) in self._done:
            done = self._done[id(value)]
            if done is None:
                raise ValueError("it holds a container that contains itself")
            return done
        if depth > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
        self._done[id(value)] = None
        content, count = self._converted(value, depth + 1)
        if count > MOST_VALUES:
            raise ValueError(f"it unfolds to more than {MOST_VALUES} values")
        self._done[id(value)] = content, count
        return content, count

    def _converted(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, list | tuple):
            items, count = self._all(value, depth)
            return (items if isinstance(value, list) else tuple(items)), count
        if isinstance(value, dict):
            keys = [_key_text(key) for key in value]
            if len(set(keys)) < len(keys):
                raise ValueError("a dict holds the same key as bytes and as a string")
            items, count = self._all(value.values(), depth)
            return dict(zip(keys, items, strict=True)), count + len(keys)
        if isinstance(value, set):
            return value, 1 + len(value)
        if isinstance(value, memoryview):
            return bytes(value), 1
        if isinstance(value, Text):
            return value.decoded(), 1
        if isinstance(value, Array):
            return self._array(value, depth)
        raise ValueError(f"it holds a {type(value).__name__.lower()} itself, which is no data")

    def _all(self, values: Iterable[Any], depth: int) -> tuple[list[Any], int]:
        found = [self.plain(value, depth) for value in values]
        return [content for content, _ in found], 1 + sum(count for _, count in found)

    def _array(self, array: Array, depth: int) -> tuple[Any, int]:
        shape, dtype, data = array.shape, array.dtype, array.data
        if dtype is None or type(shape) is not tuple or len(shape) > 32:
            raise ValueError("it holds an array without a shape and type")
        if any(type(size) is not int or not 0 <= size < 1 << 62 for size in shape):
            raise ValueError("it holds an array whose shape is no shape")
        size, wide = math.prod(shape), itemsize(dtype)
        expected = size if dtype.code[0] == "O" else size * wide
        kinds = (list,) if dtype.code[0] == "O" else (bytes, memoryview)
        if not dtype.order or type(data) not in kinds or len(data) != expected:
            raise ValueError(f"the content of an array of {size} {dtype.code} does not fit it")
        if (size and not wide) or array.order not in ("C", "F", "K"):
            raise ValueError(f"it holds an array of {dtype.code} in an unknown order")
        count = 1
        if dtype.code[0] == "O":
            self._spend(size)
            flat = np.empty(size, object)
            items, count = self._all(data, depth)
            for position, item in enumerate(items):
                flat[position] = item
        else:
            flat = self._flat(data, np.dtype(dtype.order + dtype.code), size)
        if array.scalar:
            if dtype.code[0] == "O":
                raise ValueError("it holds a scalar of another kind than a number or string")
            return flat[0], 1
        if array.axes is None:
            return flat.reshape(shape, order=array.order), count
        if sorted(array.axes) != list(range(len(shape))):
            raise ValueError("it holds an array whose axes are not those of its shape")
        return flat.reshape(shape).transpose(array.axes), count

    def _flat(self, data: Any, dtype: np.dtype, size: int) -> np.ndarray:
        if not size:
            return np.zeros(0, dtype)
        if dtype.kind == "b":
            # A truth value of another byte than 0 or 1 confuses NumPy.
            self._spend(size)
            return np.frombuffer(data, np.uint8) != 0
        if dtype.kind == "U":
            self._spend(len(data))
            if np.frombuffer(data, dtype.str[0] + "u4").max() > 0x10FFFF:
                raise ValueError("an array of strings holds what is no character")
        return np.frombuffer(data, dtype)


def ascii_name(value: Any) -> str:
    """The name of a type or byte order: bytes where Python 2 wrote it."""
    if isinstance(value, bytes):
        return value.decode("ascii")
    # Nothing else is ever turned into a string: shared lists can unfold to gigabytes.
    if not isinstance(value, str):
        raise ValueError(f"a type is named by a {type(value).__name__}")
    return value


def _key_text(key: Any) -> Any:
    if not isinstance(key, bytes):
        return key
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        return key.decode("latin-1")


def itemsize(dtype: Dtype) -> int:
    """Bytes of one element; of an object, of which none are in the file, 8 or as it says."""
    if not _DTYPE.fullmatch(dtype.code):
        raise ValueError(f"it holds an array of the type {dtype.code!r}")
    size = int(dtype.code[1:] or 8)
    return 4 * size if dtype.code[0] == "U" else size
