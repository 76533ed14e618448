"""Opens an .npz of plain arrays from anywhere: what it promises is checked before it is unpacked.

An .npz is a zip of .npy members (numpy.lib.format). Nothing is unpickled, and memory stays in
proportion to the file. NumPy's own `load` allocates whatever a header asks for, so the members are
read here.
"""

import io
import math
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from msa_jax.data.sources.limits import LARGE, check_unpacked
from msa_jax.errors import UserError

_DEFLATE_RATIO = 1032  # no deflated byte makes more: https://zlib.net/zlib_tech.html
_ENCRYPTED = 0x1
# NumPy refuses to evaluate longer headers; its own take about a hundred bytes.
_HEADER = 12 + 10_000
_CHUNK = 1 << 20
_PLAIN = "biufcmMSU"
# What zipfile lets through where a file is not as it expects.
_DAMAGE = (
    *(zlib.error, struct.error, EOFError, ValueError, RuntimeError),
    *(LookupError, ArithmeticError),
)
_HINT = "Write it again with numpy.savez or numpy.savez_compressed"


def load(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz, by name.

    Raises:
      UserError: if it cannot be read, is no .npz, is damaged, or holds anything but plain arrays
        of numbers and strings; or if it would unpack to more than 1 GiB and to more than 200 times
        its own size.
    """
    try:
        # Opened here: zipfile leaves a file that is no archive open.
        with Path(path).open("rb") as file:
            if file.read(6) == npy.MAGIC_PREFIX:
                raise UserError(f"{path} is a single array: expected an .npz of named arrays.")
            size = file.seek(0, io.SEEK_END)
            with zipfile.ZipFile(file) as archive:
                members = _checked_members(path, archive, size)
                headers = {name: _header(path, archive, m) for name, m in members.items()}
                return {
                    name: _array(path, archive, member, *headers[name])
                    for name, member in members.items()
                }
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        why = f"{_words(error)}. It may be cut off or damaged: copy it again"
        raise _refusal(path, why) from error
    except _DAMAGE as error:
        raise _refusal(path, f"it is damaged ({_words(error)}): copy it again") from error
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}. Check the path; a file that is "
            "damaged has to be copied again."
        ) from error
    except MemoryError as error:
        raise UserError(
            f"{path} does not fit in memory: split it into files, or write a .parquet table, which "
            "is read bit by bit."
        ) from error


def _refusal(path: str, why: str) -> UserError:
    return UserError(f"{path} is not a features file (.npz without pickled objects): {why}.")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _checked_members(path: str, archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Members by array name, once the zip's own directory has been found plausible."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        shown = repr(member.filename[:100])
        if not member.filename.endswith(".npy"):
            raise _refusal(path, f"it holds {shown}, which is no array (.npy). {_HINT}")
        if member.flag_bits & _ENCRYPTED:
            raise _refusal(path, f"{shown} is encrypted. {_HINT}")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refusal(path, f"{shown} is not compressed as NumPy does it. {_HINT}")
        most = member.compress_size
        most *= 1 if member.compress_type == zipfile.ZIP_STORED else _DEFLATE_RATIO
        if member.file_size > most:
            raise _refusal(
                path,
                f"{shown} cannot hold the {member.file_size} bytes that it promises: the file is "
                "damaged, copy it again",
            )
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise _refusal(path, f"it holds {shown} twice. {_HINT}")
        members[name] = member
    total = sum(member.file_size for member in members.values())
    if sum(member.compress_size for member in members.values()) > size:
        raise _refusal(path, "its arrays overlap: the file is damaged, copy it again")
    check_unpacked(path, size, total, "store less padding")
    return members


def _header(
    path: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran's order, dtype, and the header's bytes, found to fit the member."""
    with archive.open(member) as stream:
        start = io.BytesIO(stream.read(_HEADER))
    shown = repr(member.filename[:100])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers and dtypes of old NumPy versions
            version = npy.read_magic(start)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            if version not in read:
                raise ValueError(f"its version is {version}, expected (1, 0) or (2, 0)")
            shape, fortran, dtype = read[version](start)
    except Exception as error:
        # NumPy evaluates the header as a Python literal, which can go wrong in any way.
        why = f"{shown} has no header of a plain array ({_words(error)}). {_HINT}"
        raise _refusal(path, why) from error
    if dtype.hasobject:
        raise _refusal(
            path, f"{shown} holds Python objects. Convert it to an array of numbers or strings"
        )
    if dtype.kind not in _PLAIN or not dtype.itemsize:
        raise _refusal(
            path, f"{shown} is of dtype {str(dtype)[:100]}: expected plain numbers or strings"
        )
    size = math.prod(shape) * dtype.itemsize
    # An empty array takes no bytes, whatever else its shape says.
    spread = math.prod(max(1, dimension) for dimension in shape) * dtype.itemsize
    if len(shape) > 8 or min(shape, default=0) < 0 or spread > max(LARGE, size):
        raise _refusal(path, f"{shown} has the impossible shape {str(shape)[:100]}. {_HINT}")
    if size != member.file_size - start.tell():
        raise _refusal(
            path,
            f"{shown} promises shape {shape} of {dtype}, {size} bytes, and holds "
            f"{member.file_size - start.tell()}. {_HINT}",
        )
    return tuple(int(dimension) for dimension in shape), fortran, dtype, start.tell()


def _array(
    path: str,
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    shape: tuple[int, ...],
    fortran: bool,
    dtype: np.dtype,
    header: int,
) -> np.ndarray:
    """Unpacks a member whose header has been checked; zipfile compares its CRC at the end."""
    content = np.empty(member.file_size - header, np.uint8)
    with archive.open(member) as stream:
        stream.read(header)
        if _fill(content, stream) < content.size or stream.read(1):
            raise _refusal(
                path,
                f"{member.filename[:100]!r} ends too early: the file is damaged, copy it again",
            )
    # Typed here: NumPy's own types for a buffer leave arrays out.
    array: np.ndarray = np.ndarray(shape, dtype, content.data, order="F" if fortran else "C")
    if dtype.kind == "U" and not _is_text(array):
        raise _refusal(
            path, f"{member.filename[:100]!r} holds strings that are not Unicode. {_HINT}"
        )
    return array


def _fill(content: np.ndarray, stream: IO[bytes]) -> int:
    """Reads bytes [n] from a stream bit by bit; returns how many there were."""
    filled = 0
    while filled < content.size:
        part = stream.read(min(_CHUNK, content.size - filled))
        if not part:
            break
        content[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    return filled


def _is_text(array: np.ndarray) -> bool:
    """Whether every character of a string array exists; NumPy itself does not look."""
    points = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
    points = points.byteswap() if not array.dtype.isnative else points
    return not np.any((points > 0x10FFFF) | ((points >= 0xD800) & (points <= 0xDFFF)))
