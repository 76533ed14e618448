"""Reads pickles of plain data without running anything that they name.

A pickle is a program for a small stack machine, and one of its instructions calls any function by
name: `pickle.load` runs whatever a downloaded file asks for. Here the standard library's pure
Python machine runs with that instruction replaced. A file may name the few functions that plain
containers and NumPy arrays are made of; each is only a label, of which placeholders are made
(NumPy's own code for unpickling never runs), and arrays are built from their checked shape, type
and bytes once the file has been read. Everything else is refused by name.

The C machine is not used, since it grows its table of remembered values to any index the file
names. Time and memory stay proportional to the file. Large arrays written by protocol 3 or later
stay in the file, memory-mapped; protocol 2 of Python 3 writes bytes as text, which costs a copy.
"""

import mmap
import os
import pickle
import stat
from typing import Any

from msa_jax.data.sources.placeholders import (
    MOST_VALUES,
    Array,
    Converter,
    Dtype,
    Global,
    Text,
    ascii_name,
    itemsize,
)
from msa_jax.errors import UserError

_MULTIARRAY = frozenset({"_reconstruct", "scalar"})
_TYPES = {"set", "frozenset", "bytearray", "bytes", "list", "dict", "tuple", "int", "float", "str"}
# {module: names}: all that a file may name, whatever its protocol and NumPy's or Python's version.
_ALLOWED = {
    "numpy": frozenset({"ndarray", "dtype"}),
    "numpy.core.multiarray": _MULTIARRAY,
    "numpy._core.multiarray": _MULTIARRAY,
    "numpy.core.numeric": frozenset({"_frombuffer"}),
    "numpy._core.numeric": frozenset({"_frombuffer"}),
    "_codecs": frozenset({"encode"}),
    "builtins": frozenset(_TYPES),
    "__builtin__": frozenset(_TYPES),
    "collections": frozenset({"OrderedDict", "defaultdict"}),
}
_LARGE = 1 << 16
# Numbers can be chosen to collide in a dict, which strings cannot: few enough to stay quick.
_MOST_NUMBER_KEYS = 10_000
# No pickle of plain data begins so.
_STARTS = {
    b"PK\x03\x04": "a zip archive (NumPy's .npz and PyTorch's .pt files are such)",
    b"\x1f\x8b": "compressed by gzip",
    b"<": "a web page",
    b"version http": "a Git LFS pointer, not the file itself",
    b"\x89HDF": "an HDF5 file",
}


def load(path: str) -> Any:
    """The content of a pickle: plain containers, strings, numbers, NumPy arrays and scalars.

    Strings of Python 2 are bytes, but as keys of a dict, which are str. Arrays are read-only; while
    one is in use the file is mapped and must not change. Ordered and default dicts become dicts.

    Raises:
      UserError: if it cannot be read, is truncated or damaged, holds or asks for anything else
        (functions, classes, persistent ids), refers to itself, is nested deeper than 60 levels,
        unfolds to more than 30 million values, or needs more memory than there is.
    """
    file = _opened(path)
    for start, looks in _STARTS.items():
        if file.data[: len(start)] == start:
            raise UserError(
                f"{path} is not a pickle: it is {looks}. Download it again, unpack it, or give it "
                "its own name."
            )
    try:
        machine = _Machine(file)
        return Converter(machine.spend).plain(machine.load(), 0)[0]
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{path}: there is not enough memory to read it. Protocol 2 of Python 3 needs about "
            "the size of all arrays and once more that of the largest: write the file anew with "
            "protocol 4, whose arrays are read from where they are, or take a larger machine."
        ) from error
    except Exception as error:
        # Whatever a damaged file makes the machine stumble over, down to warnings made errors.
        reason = ascii(str(error))[1:-1][:200]
        if isinstance(error, KeyError):  # of the table of instructions
            reason = f"there is no instruction {reason}"
        elif not isinstance(error, ValueError):
            reason = f"{type(error).__name__}: {reason}"
        raise UserError(
            f"{path} is not a whole pickle of plain data: {reason} (at byte "
            f"{file.position}). Download it again and compare its size and checksum, or write it "
            "anew as dictionaries of NumPy arrays."
        ) from error


class _File:
    """What the machine reads from: it never allocates more than the file holds."""

    def __init__(self, path: str, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.view = memoryview(data)
        self.size = len(data)
        self.position = 0
        self.reads = 0

    def read(self, count: int) -> bytes | memoryview:
        self.expect(count)
        self.reads += 1
        if self.reads > MOST_VALUES:
            raise UserError(
                f"{self.path} holds more than {MOST_VALUES} single values: expected NumPy arrays. "
                "Write it anew with numbers in arrays, not in lists."
            )
        start, end = self.position, self.position + count
        self.position = end
        return self.view[start:end] if count >= _LARGE else self.data[start:end]

    def expect(self, count: int) -> None:
        left = self.size - self.position
        if count > left:
            raise self._truncated(f"{count} bytes are announced and {left}")

    def readline(self) -> bytes:
        end = self.data.find(b"\n", self.position) + 1
        if not end:
            raise self._truncated("a line has no end and no more bytes")
        start, self.position = self.position, end
        return self.data[start:end]

    def _truncated(self, what: str) -> UserError:
        return UserError(
            f"{self.path} is truncated or damaged: at byte {self.position}, {what} are left. "
            "Download it again and compare its size and checksum."
        )


def _opened(path: str) -> _File:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a file: expected a pickle.")
        if not os.stat(path).st_size:
            raise UserError(f"{path} is empty: expected a pickle. Download it again.")
        with open(path, "rb") as file:
            return _File(path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"cannot read {path!r}: {error}. Check the path.") from error


_Base: Any = pickle._Unpickler


class _Machine(_Base):
    """The stack machine, with every instruction replaced that could call, import or compare."""

    def __init__(self, file: _File) -> None:
        super().__init__(file, encoding="bytes")
        self.file = file
        self.number_keys = 0
        self.budget = file.size

    def spend(self, count: int) -> None:
        """Counts copied bytes or values: no honest file makes more copies than it has bytes."""
        self.budget -= count
        if self.budget < 0:
            raise ValueError("it copies the same values again and again")

    def find_class(self, module: str, name: str) -> Global:
        if name not in _ALLOWED.get(module, ()):
            raise UserError(
                f"{self.file.path} asks to run {f'{module}.{name}'[:100]!a}: it is not a data "
                "file of plain containers and NumPy arrays, and nothing of it was run. If you "
                "trust it, load it where it was made and save dictionaries of NumPy arrays."
            )
        return Global(name)

    def persistent_load(self, pid: Any) -> Any:
        raise ValueError("it refers to data outside of it, as files of PyTorch do")

    def get_extension(self, code: int) -> Any:
        raise ValueError(f"it uses the extension code {code}")

    def _instantiate(self, klass: Any, args: Any) -> Any:
        raise ValueError("it makes an instance of a class")

    def _refuse(self) -> None:
        raise ValueError("it makes an instance of a class, or needs data outside of it")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not Global or type(arguments) is not tuple:
            raise ValueError(f"it calls a {type(function).__name__}")
        self.stack[-1] = self._made(function.name, arguments)

    def _made(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What a call of one of the allowed names would have made, or a placeholder of it."""
        match name, arguments:
            case "_reconstruct", (Global(name="ndarray"), tuple(), _):
                return Array()
            case "dtype", (str() | bytes() as code, *_):
                return Dtype(ascii_name(code))
            case "scalar", (Dtype() as dtype, bytes() | memoryview() as data):
                return Array(shape=(), dtype=dtype, data=data, scalar=True)
            case "_frombuffer", (data, Dtype() as dtype, shape, order, *axes) if len(axes) < 2:
                return Array(shape, dtype, data, order, *axes)
            case "encode" | "bytearray", (
                str() | Text() as text,
                "latin1" | "latin-1" | b"latin-1",
            ):
                text = text.decoded() if isinstance(text, Text) else text
                self.spend(len(text))
                return text.encode("latin-1")
            case "bytes" | "bytearray", ():
                return b""
            case "bytes" | "bytearray", (bytes() | memoryview() as data,):
                return data
            case "set" | "frozenset", ():
                return set()
            case "set" | "frozenset", (list() | tuple() as items,):
                self.spend(len(items))
                return {self._key(item) for item in items}
            case "OrderedDict", (list() as pairs,):
                self.spend(2 * len(pairs))
                return {self._key(key): value for key, value in pairs}
            case "OrderedDict" | "defaultdict", () | (Global() | None,):
                return {}
        raise ValueError(f"it calls {name!r} in a way that makes no plain data")

    def load_build(self) -> None:
        state = self.stack.pop()
        match self.stack[-1], state:
            case Dtype(order="") as dtype, (3, order, None, None, None, size, _, _):
                dtype.order = ascii_name(order)
                if dtype.order not in ("<", ">", "|") or size not in (-1, itemsize(dtype)):
                    raise ValueError(f"{dtype.code!r} is of no known byte order or size")
            case Array(dtype=None) as array, (1, tuple() as shape, Dtype() as dtype, order, data):
                array.shape, array.dtype, array.data = shape, dtype, data
                array.order = "F" if order else "C"
            case unknown, _:
                raise ValueError(f"it changes a {type(unknown).__name__}")

    def _key(self, key: Any) -> Any:
        kind = type(key)
        if kind is str or kind is bytes:
            return key
        self.number_keys += 1
        if kind not in (int, float, bool, type(None)) or (kind is int and key.bit_length() > 64):
            raise ValueError(f"a {kind.__name__} is a key or in a set: expected strings")
        if self.number_keys > _MOST_NUMBER_KEYS:
            raise ValueError("too many numbers are keys or in sets: expected strings")
        return key

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("it sets an item of what is no dict")
        for position in range(0, len(items), 2):
            target[self._key(items[position])] = items[position + 1]

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append({self._key(item) for item in items})

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise ValueError("it adds to what is no set")
        self.stack[-1].update(self._key(item) for item in items)

    def load_append(self) -> None:
        value = self.stack.pop()
        if type(self.stack[-1]) is not list:
            raise ValueError("it appends to what is no list")
        self.stack[-1].append(value)

    def load_appends(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not list:
            raise ValueError("it appends to what is no list")
        self.stack[-1].extend(items)

    def load_frame(self) -> None:
        # Frames only group reads. One read at a time leaves large arrays where they are, also in
        # the files of Python 3.6 and before, whose frames hold them.
        self.file.expect(int.from_bytes(self.read(8), "little"))

    def load_bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def load_readonly_buffer(self) -> None:
        if type(self.stack[-1]) not in (bytes, memoryview):
            raise ValueError("it protects what is no buffer")

    def _unicode(self, width: int) -> None:
        data = self.read(int.from_bytes(self.read(width), "little"))
        long = isinstance(data, memoryview)
        self.append(Text(data) if long else str(data, "utf-8", "surrogatepass"))

    def load_binunicode(self) -> None:
        self._unicode(4)

    def load_binunicode8(self) -> None:
        self._unicode(8)

    def _put(self, index: int) -> None:
        # Writers number values one by one (Python 2's from 1); chosen indices could collide.
        if not 0 <= index <= len(self.memo) + 1:
            raise ValueError(f"it numbers a value {index} after {len(self.memo)} values")
        self.memo[index] = self.stack[-1]

    def load_put(self) -> None:
        self._put(int(self.readline()[:-1]))

    def load_binput(self) -> None:
        self._put(self.read(1)[0])

    def load_long_binput(self) -> None:
        self._put(int.from_bytes(self.read(4), "little"))

    dispatch = {  # noqa: RUF012, the base class has it so
        **_Base.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.NEWOBJ[0]: _refuse,
        pickle.NEWOBJ_EX[0]: _refuse,
        pickle.OBJ[0]: _refuse,
        pickle.NEXT_BUFFER[0]: _refuse,
        pickle.READONLY_BUFFER[0]: load_readonly_buffer,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.ADDITEMS[0]: load_additems,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.FRAME[0]: load_frame,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.BINUNICODE[0]: load_binunicode,
        pickle.BINUNICODE8[0]: load_binunicode8,
        pickle.PUT[0]: load_put,
        pickle.BINPUT[0]: load_binput,
        pickle.LONG_BINPUT[0]: load_long_binput,
    }
