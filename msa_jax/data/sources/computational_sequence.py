"""One `.csd` file of the CMU-MultimodalSDK: a computational sequence, read as untrusted HDF5.

A file holds one group, the root, with `data/<video>/features` [n, C] and `data/<video>/intervals`
[n, 2] in seconds (mmsdk/mmdatasdk/computational_sequence/file_ops.py). Entries named `<video>[0]`,
`<video>[1]` and so on are parts of a video and are joined, as the SDK does.

Nothing outside the file is ever opened: links other than hard ones, external storage and virtual
datasets are refused, and references are no numbers. What a dataset claims to hold is checked
before memory is taken for it.
"""

import contextlib
import math
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from msa_jax.data.sources.limits import LARGE, LARGEST_RATIO
from msa_jax.errors import UserError

# A video may take `LARGE` bytes once unpacked: nearly ten hours of COVAREP. Beyond these 64 MiB no
# dataset may be more than `LARGEST_RATIO` times what is stored: a small file could fill the memory.
FREE_BYTES = 2**26
# A byte of gzip unpacks to no more than this, whatever the dataset claims.
GZIP_RATIO = 1032
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
METADATA_BYTES = 2**20
MAX_WORD_BYTES = 1000
MAX_SECONDS = 1_000_000

# How long a second process may take over words of variable length: this and a second per 1,000.
PATIENCE = 60.0

Rows = tuple[np.ndarray, Any]


def open_sequence(path: Path) -> "ComputationalSequence":
    """A checked file; words of variable length have been read once, in a process of their own.

    On damaged strings of variable length libhdf5 (1.14.6) may loop for ever, where nothing can
    interrupt it. The CMU-MultimodalSDK's own words have a fixed length and skip this.

    Raises:
      UserError: as `ComputationalSequence` does, or if that process crashes or does not end.
    """
    sequence = ComputationalSequence(path)
    if not sequence.variable:
        return sequence
    try:
        subprocess.run(
            [sys.executable, "-m", __name__, str(path.resolve())],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE + sum(sequence.rows.values()) / 1000,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise UserError(
            f"{path}: its words cannot be read ({type(error).__name__}). The file is damaged: "
            "download it again, or write its words as strings of fixed length."
        ) from error
    return sequence


class ComputationalSequence:
    """A file whose structure has been checked; a video's rows are read as they are asked for.

    Attributes:
      path: the file.
      root: its root group's name.
      strings: whether its features are strings (words) rather than numbers.
      variable: whether any of these strings are of variable length.
      channels: C, the columns of its features.
      rows: `{video: rows}` of the videos that have any, by name.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, checks every entry's structure and closes it.

        Raises:
          UserError: if it is no HDF5 file, is damaged, reaches outside itself or is not laid out
            as a computational sequence; the message names the entry.
        """
        self.path = path
        self.rows: dict[str, int] = {}
        self.strings = False
        self.variable = False
        self.channels = 0
        self._entries: dict[str, list[str]] = {}
        with self._refusing("cannot be read"), self._open() as file:
            names = self._names(file)
            if len(names) != 1:
                raise self._error(
                    f"has {len(names)} groups at its root ({', '.join(map(repr, names[:3]))}): "
                    "expected one, which holds data and metadata. It is not a .csd file of the "
                    "CMU-MultimodalSDK."
                )
            self.root = names[0]
            data = self._data(file)
            for entry in self._names(data):
                self._check(data, entry)
        if not self._entries:
            raise self._error("has no rows in any video. Download it again or remove it.")
        self.rows = dict(sorted(self.rows.items()))

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], Rows]]:
        """Opens the file for a function that reads a video by its id.

        It returns the intervals [n, 2] float32, at most MAX_SECONDS, and the features: [n, C]
        float32 with any non-finite values they have, or a list of n words.

        Raises:
          UserError: if the file is damaged or has changed, if an interval is out of range, or a
            word is not UTF-8.
        """
        with contextlib.ExitStack() as stack:
            with self._refusing("cannot be read"):
                data = self._data(stack.enter_context(self._open()))

            def read(video: str) -> Rows:
                with self._refusing(f"{video!r} cannot be read"):
                    parts = [self._read(data, entry) for entry in self._entries[video]]
                    intervals = np.concatenate([part[0] for part in parts])
                    if self.strings:
                        return intervals, [word for part in parts for word in part[1]]
                    return intervals, np.concatenate([part[1] for part in parts])

            yield read

    def _check(self, data: h5py.Group, entry: str) -> None:
        """Checks an entry's structure and notes its rows and what its features are."""
        features, intervals = self._entry(data, entry)
        if not len(features) and not len(intervals):
            return
        if not self._entries:
            self.strings = h5py.check_string_dtype(features.dtype) is not None
        if self.strings:
            fits, expected = h5py.check_string_dtype(features.dtype) is not None, "strings"
        else:
            fits, expected = features.dtype.kind in "fiu", "numbers"
        if not fits:
            raise self._error(
                f"{entry!r} has features of type {features.dtype}: expected {expected}. Download "
                "the file again or remove the entry."
            )
        if intervals.dtype.kind not in "fiu" or intervals.shape[1:] != (2,):
            raise self._error(
                f"{entry!r} has intervals {intervals.shape} of type {intervals.dtype}: expected "
                "numbers [n, 2], start and end in seconds. Correct or remove the entry."
            )
        if features.ndim != 2 or len(features) != len(intervals) or not features.shape[1]:
            raise self._error(
                f"{entry!r} has features {features.shape} and intervals {intervals.shape}: "
                "expected [n, C] and [n, 2], a row each. Correct or remove the entry."
            )
        if not self._entries:
            self.channels = 1 if self.strings else int(features.shape[1])
        if features.shape[1] != self.channels:
            raise self._error(
                f"{entry!r} has features {features.shape}: expected {self.channels} columns, as "
                f"{'words have' if self.strings else 'the entries before have'}. Correct or "
                "remove the entry."
            )
        video = entry.split("[")[0]
        self._entries.setdefault(video, []).append(entry)
        self.variable |= features.dtype.kind == "O"
        self.rows[video] = self.rows.get(video, 0) + len(features)
        if self.rows[video] * self.channels * 4 > LARGE:
            raise self._error(
                f"{video!r} has {self.rows[video]:,} rows in {len(self._entries[video])} parts: "
                f"expected at most {LARGE:,} bytes of float32 a video. Cut the video."
            )

    def _read(self, data: h5py.Group, entry: str) -> Rows:
        features, intervals = self._entry(data, entry)
        self._unpack(features)
        self._unpack(intervals)
        # HDF5 converts, so that a value beyond float32 becomes infinite without a warning.
        times = intervals.astype(np.float32)[()]
        # Written so that it also refuses what is not a number.
        wrong = ~(np.abs(times) <= MAX_SECONDS).all(axis=1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise self._error(
                f"{entry!r} has the interval {times[row].tolist()} in row {row}: expected seconds, "
                f"finite and at most {MAX_SECONDS:,}. Correct or remove the entry."
            )
        values = self._words(features, entry) if self.strings else features.astype(np.float32)[()]
        if len(values) != len(times):
            raise self._error(f"{entry!r} has changed since it was checked. Start again.")
        return times, values

    def _words(self, features: h5py.Dataset, entry: str) -> list[str]:
        """The words of an entry."""
        block = len(features)
        if features.dtype.kind == "O":
            # Any number of rows may point at one long string, which is at most as long as the file.
            block = min(block, max(1, FREE_BYTES // self.path.stat().st_size))
        words = []
        for start in range(0, len(features), block):
            for word in features[start : start + block, 0].tolist():
                if len(word) > MAX_WORD_BYTES:
                    raise self._error(
                        f"{entry!r} has a word of {len(word)} bytes: expected at most "
                        f"{MAX_WORD_BYTES}. Correct or remove the entry."
                    )
                try:
                    words.append(word.decode())
                except UnicodeDecodeError as error:
                    raise self._error(
                        f"{entry!r} has the word {word!r} in row {len(words)}, which is not UTF-8. "
                        "Write the words again in UTF-8."
                    ) from error
        return words

    def _entry(self, data: h5py.Group, entry: str) -> tuple[h5py.Dataset, h5py.Dataset]:
        """An entry's features and intervals, safe to read."""
        group = self._member(data, entry, h5py.Group)
        return self._dataset(group, "features"), self._dataset(group, "intervals")

    def _names(self, group: h5py.Group) -> list[str]:
        """The names in a group, in order; h5py gives those that are not UTF-8 as bytes."""
        names = list(group)
        for name in names:
            if isinstance(name, bytes):
                raise self._error(f"names {name!r} in {group.name!r} not in UTF-8. Rename it.")
        return sorted(names)

    def _data(self, file: h5py.File) -> h5py.Group:
        return self._member(self._member(file, self.root, h5py.Group), "data", h5py.Group)

    def _dataset(self, group: h5py.Group, name: str) -> h5py.Dataset:
        """A dataset that lies in this file and fits into memory."""
        dataset = self._member(group, name, h5py.Dataset)
        # Asked before anything else: even its shape would open a virtual dataset's sources.
        if dataset.is_virtual or dataset.external:
            raise self._error(
                f"keeps {dataset.name!r} in other files, which are never opened. Copy its values "
                "into this file."
            )
        if dataset.shape is None or dataset.ndim == 0:
            raise self._error(f"holds no rows in {dataset.name!r}. Download the file again.")
        packing = dataset.id.get_create_plist()
        filters = [packing.get_filter(number) for number in range(packing.get_nfilters())]
        kinds = [kind for kind, *_ in filters]
        if not FILTERS.issuperset(kinds) or len(set(kinds)) < len(kinds):
            found = ", ".join(name.decode() for *_, name in filters)
            raise self._error(
                f"packs {dataset.name!r} by {found}: expected gzip, once, or no compression. Write "
                "it again so."
            )
        size = max(math.prod(dataset.shape), math.prod(dataset.chunks or ()))
        # Numbers become float32, whatever they are stored as.
        held = size * max(4, dataset.dtype.itemsize)
        stored = min(dataset.id.get_storage_size(), self.path.stat().st_size)
        if held > LARGE or held > max(FREE_BYTES, LARGEST_RATIO * stored):
            raise self._error(
                f"claims {held:,} bytes for {dataset.name!r}, of which {stored:,} are stored: "
                f"expected at most {LARGE:,}, and {LARGEST_RATIO} times what is stored. Download "
                "the file again, or cut the video."
            )
        return dataset

    def _unpack(self, dataset: h5py.Dataset) -> None:
        """Unpacks large chunks bit by bit, to see that they unpack to no more than LARGE.

        libhdf5 makes room for all that a chunk unpacks to, whatever the dataset claims: 3 MB for
        3 GB of zeros.
        """
        if dataset.compression != "gzip":
            return
        chunks: list[Any] = []
        dataset.id.chunk_iter(chunks.append)
        for chunk in chunks:
            if chunk.size * GZIP_RATIO <= LARGE:
                continue
            _, packed = dataset.id.read_direct_chunk(chunk.chunk_offset)
            unpacker, unpacked = zlib.decompressobj(), 0
            while packed and unpacked <= LARGE:
                unpacked += len(unpacker.decompress(packed, FREE_BYTES))
                packed = unpacker.unconsumed_tail
            if unpacked > LARGE:
                raise self._error(
                    f"unpacks to more than {LARGE:,} bytes in {dataset.name!r}, which claims "
                    f"to hold {dataset.shape}. The file is damaged: download it again."
                )

    def _member(self, group: h5py.Group, name: str, kind: type) -> Any:
        """A group or dataset that `group` itself holds, reached without following other links."""
        links, key = group.id.links, name.encode()
        expected = "group" if kind is h5py.Group else "dataset"
        if not links.exists(key):
            found = ", ".join(map(repr, list(group)[:5]))
            raise self._error(
                f"has no {expected} {name!r} in {group.name!r}; found: {found or 'nothing'}. It is "
                "not a complete .csd file of the CMU-MultimodalSDK."
            )
        if links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise self._error(
                f"links {name!r} in {group.name!r} to another place, and links are never "
                "followed. Copy what it points to into this file."
            )
        member = group[name]
        if not isinstance(member, kind):
            raise self._error(
                f"has something other than a {expected} under {name!r} in {group.name!r}. It is "
                "not a .csd file of the CMU-MultimodalSDK."
            )
        return member

    def _open(self) -> h5py.File:
        if not self.path.is_file():
            raise self._error("is not a file. Remove it.")
        file = h5py.File(self.path, "r")
        # What libhdf5 remembers of entries it will not meet again grows to 100 MB a file.
        cache = file.id.get_mdc_config()
        cache.set_initial_size = True
        cache.initial_size = cache.min_size = cache.max_size = METADATA_BYTES
        file.id.set_mdc_config(cache)
        return file

    @contextlib.contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """Turns whatever h5py raises on a damaged file, which is anything, into a UserError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise self._error(
                f"{what} ({type(error).__name__}: {error}). It is not an HDF5 file, or it is "
                "damaged or incomplete: download it again."
            ) from error

    def _error(self, message: str) -> UserError:
        return UserError(f"{self.path}: {message}")


def _read_all(path: Path) -> None:
    """Reads every video; what is wrong with the file is told by the process that asked."""
    with contextlib.suppress(UserError):
        sequence = ComputationalSequence(path)
        with sequence.reader() as read:
            for video in sequence.rows:
                read(video)


if __name__ == "__main__":
    _read_all(Path(sys.argv[1]))
