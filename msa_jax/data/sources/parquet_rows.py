"""Rows of a .parquet table, a batch at a time; needs pyarrow, an optional extra."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msa_jax.data.schema import COLUMNS
from msa_jax.data.sources import columns
from msa_jax.data.sources.limits import check_unpacked
from msa_jax.data.sources.table_rows import Row
from msa_jax.errors import UserError

_BATCH_BYTES = 8 << 20
_MOST_ROWS = 4096
_TEXTS = ("id", "video_id", "transcript")
_VECTOR, _SEQUENCE = "list of floats", "list of lists of floats"


class ParquetRows:
    """A .parquet file; see `table_rows.Rows`.

    Besides numbered columns of numbers, a modality may be a column of its own name: lists of floats
    (a vector an utterance) or lists of lists of floats (a sequence). A null value or null frame is
    NaN, an empty or null list is an absent modality.
    """

    channels: Mapping[str, int]

    def __init__(self, path: str, split_column: str) -> None:
        """Reads the schema, and of list columns rows up to the first that has values.

        Raises:
          UserError: if pyarrow is missing, the file is no Parquet or promises more than it can
            hold, or a column is of another type than its name says.
        """
        self.path = path
        self._arrow = _pyarrow(path)
        self._texts: list[str] = []
        with _Errors(path), self._open() as file:
            schema = file.schema_arrow
            self.names = tuple(schema.names)
            if len(set(self.names)) < len(self.names):
                raise UserError(f"{path} has two columns of the same name: rename one.")
            types = dict(zip(self.names, schema.types, strict=True))
        self._check_types(types, split_column)
        self._texts = [name for name in (*_TEXTS, split_column) if name in types]
        numbered = columns.numbered(path, [n for n in self.names if not self._is_list(types[n])])
        self._lists = {
            name: kind
            for name, given in types.items()
            if name not in (*COLUMNS, "split", split_column) and (kind := self._kind(given))
        }
        for modality in self._lists:
            columns.check_modality(path, modality)
            if modality in numbered:
                raise UserError(
                    f"{path} has {modality!r} both as a list and in numbered columns: drop one."
                )
        features = [n for m, size in numbered.items() for n in columns.numbered_names(m, size)]
        for name in features:
            if not self._is_number(types[name]):
                raise UserError(
                    f"{path}: the column {name} is {types[name]}: expected numbers, the feature "
                    "values. Rename it if it holds no features."
                )
        self._numbered = numbered
        self.features = frozenset([*features, *self._lists])
        read = {*COLUMNS, split_column, *self.features}
        self._groups = self._checked_groups([name for name in self.names if name in read])
        widths = {modality: self._width(modality) for modality in self._lists}
        self.channels = {m: (numbered | widths)[m] for m in sorted(numbered | widths)}

    def place(self, line: int) -> str:
        """See `table_rows.Rows`."""
        return f"{self.path}, row {line}"

    def rows(
        self, names: Sequence[str], modalities: Sequence[str], keep: np.ndarray | None = None
    ) -> Iterator[Row]:
        """See `table_rows.Rows`."""
        wanted = list(names)
        for modality in modalities:
            size = self._numbered.get(modality)
            wanted += [modality] if size is None else columns.numbered_names(modality, size)
        with _Errors(self.path), self._open() as file:
            for start, batch in self._batches(file, wanted, keep):
                values = {name: _values(batch.column(name)) for name in names}
                frames = {m: self._frames(batch, m, start) for m in modalities}
                for index in range(batch.num_rows):
                    number = start + index
                    if keep is None or (number < len(keep) and keep[number]):
                        yield Row(
                            number=number,
                            line=number + 1,
                            values={name: values[name][index] for name in names},
                            frames={m: frames[m][index].copy() for m in modalities},
                        )

    def _open(self) -> Any:
        # Mapped, a page is as long as the file has it, whatever it promises, and takes no memory. A
        # dictionary stays one: a long text that all rows share would unpack to terabytes.
        return self._arrow.parquet.ParquetFile(
            self.path, memory_map=True, pre_buffer=False, read_dictionary=self._texts
        )

    def _checked_groups(self, names: Sequence[str]) -> list[tuple[int, dict[str, int]]]:
        """Rows of each row group, and bytes that each column of it takes, as the file has it.

        Raises:
          UserError: if this account cannot be true, or would be too much.
        """
        size = Path(self.path).stat().st_size
        with _Errors(self.path), self._open() as file:
            owners = _owners(file.schema, names)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            # Each row has an id of its own: that takes a byte.
            if min(counts, default=0) < 0 or not sum(counts) == file.metadata.num_rows <= size:
                raise UserError(
                    f"{self.path} promises {file.metadata.num_rows} rows, {sum(counts)} in its "
                    f"parts, in {size} bytes: it is damaged, copy it again."
                )
            groups = []
            for index, count in enumerate(counts):
                taken = dict.fromkeys(names, 0)
                if count:
                    # Asked for the metadata of a damaged column, pyarrow ends the process; asked
                    # for the column itself, it raises.
                    next(file.iter_batches(1, [index], list(names), use_threads=False), None)
                    group = file.metadata.row_group(index)
                    for leaf, name in owners.items():
                        chunk = group.column(leaf)
                        taken[name] += max(8 * chunk.num_values, chunk.total_uncompressed_size, 0)
                groups.append((count, taken))
        promised = sum(sum(taken.values()) for _, taken in groups)
        check_unpacked(self.path, size, promised, "split it into files")
        return groups

    def _check_types(self, types: dict[str, Any], split_column: str) -> None:
        kinds = self._arrow.types
        for name in (*COLUMNS, split_column):
            given = types.get(name)
            if given is None or kinds.is_null(given):
                continue
            if name in _TEXTS or name == split_column:
                plain = given.value_type if kinds.is_dictionary(given) else given
                right = kinds.is_string(plain) or kinds.is_large_string(plain)
                right |= kinds.is_integer(plain) and name in ("id", "video_id")
                words = "strings"
            else:
                right, words = self._is_number(given), "numbers"
            if not right:
                raise UserError(
                    f"{self.path}: the column {name} is {str(given)[:100]}: expected {words}."
                )

    def _is_number(self, given: Any) -> bool:
        return bool(self._arrow.types.is_integer(given) or self._arrow.types.is_floating(given))

    def _is_list(self, given: Any) -> bool:
        kinds = self._arrow.types
        return bool(
            kinds.is_list(given) or kinds.is_large_list(given) or kinds.is_fixed_size_list(given)
        )

    def _kind(self, given: Any) -> str:
        """Whether a type is of vectors or of sequences; empty where it is neither."""
        depth = 0
        while self._is_list(given):
            given, depth = given.value_type, depth + 1
        floats = self._arrow.types.is_floating(given)
        return {1: _VECTOR, 2: _SEQUENCE}.get(depth, "") if floats else ""

    def _batches(
        self, file: Any, names: Sequence[str], keep: np.ndarray | None
    ) -> Iterator[tuple[int, Any]]:
        """Batches of some columns with the numbers of their first rows.

        Row groups in which no row is kept are left unread.

        Raises:
          UserError: if a row group has not as many rows as it promises.
        """
        start = 0
        for index, (count, taken) in enumerate(self._groups):
            end = start + count
            if count and (keep is None or keep[start:end].any()):
                rows = _BATCH_BYTES * count // max(1, sum(taken[name] for name in names))
                rows = min(max(1, rows), _MOST_ROWS)
                for batch in file.iter_batches(
                    rows, row_groups=[index], columns=list(names), use_threads=False
                ):
                    yield start, batch
                    start += batch.num_rows
                if start != end:
                    raise UserError(
                        f"{self.path} promises rows up to {end} and ends at {start}: it is "
                        "damaged, copy it again."
                    )
            start = end

    def _width(self, modality: str) -> int:
        """C of a list column, from its first row that has values; 0 where none has."""
        with _Errors(self.path), self._open() as file:
            for _, batch in self._batches(file, [modality], None):
                lists = batch.column(modality)
                lists = lists.flatten() if self._lists[modality] == _SEQUENCE else lists
                sizes = self._sizes(lists)
                if sizes.any():
                    return int(sizes[sizes > 0][0])
        return 0

    def _sizes(self, lists: Any) -> np.ndarray:
        """How many values each list has [n]; 0 where null."""
        sizes = self._arrow.compute.list_value_length(lists)
        return np.asarray(sizes.fill_null(0).to_numpy(zero_copy_only=False), np.int64)

    def _floats(self, values: Any) -> np.ndarray:
        """Values [n] float32; NaN where null."""
        single = values.cast(self._arrow.float32(), safe=False)
        return np.asarray(single.to_numpy(zero_copy_only=False), np.float32)

    def _frames(self, batch: Any, modality: str, start: int) -> list[np.ndarray]:
        """Frames [T, C] of each row of a batch."""
        channels = self.channels[modality]
        if modality in self._numbered:
            parts = [batch.column(name) for name in columns.numbered_names(modality, channels)]
            values = np.stack([self._floats(part) for part in parts], axis=1)
            null = [part.is_null().to_numpy(zero_copy_only=False) for part in parts]
            absent = np.all(null, axis=0)
            return [row[None][int(gone) :] for row, gone in zip(values, absent, strict=True)]
        lists = batch.column(modality)
        if self._lists[modality] == _VECTOR:
            sizes = self._sizes(lists)
            self._check_widths(modality, sizes[sizes > 0], np.flatnonzero(sizes) + start)
            counts = (sizes > 0).astype(np.int64)
            values = self._floats(lists.flatten()).reshape(-1, channels)
        else:
            counts = self._sizes(lists)
            inner = lists.flatten()
            real = inner.is_valid().to_numpy(zero_copy_only=False).astype(bool)
            owners = np.repeat(np.arange(len(counts)), counts) + start
            self._check_widths(modality, self._sizes(inner)[real], owners[real])
            values = np.full((len(inner), channels), np.nan, np.float32)
            values[real] = self._floats(inner.flatten()).reshape(-1, channels)
        return np.split(values, np.cumsum(counts)[:-1])

    def _check_widths(self, modality: str, widths: np.ndarray, rows: np.ndarray) -> None:
        wrong = np.flatnonzero(widths != self.channels[modality])
        if wrong.size:
            raise UserError(
                f"{self.place(rows[wrong[0]] + 1)}, column {modality}: {widths[wrong[0]]} values "
                f"in a frame, others have {self.channels[modality]}. Every frame of a modality has "
                "the same."
            )


def _owners(schema: Any, names: Sequence[str]) -> dict[int, str]:
    """The column that each leaf of a Parquet schema belongs to, of those in `names`."""
    owners, wanted = {}, set(names)
    for leaf in range(len(schema)):
        prefixes = itertools.accumulate(schema.column(leaf).path.split("."), "{}.{}".format)
        owner = next((prefix for prefix in prefixes if prefix in wanted), None)
        if owner is not None:
            owners[leaf] = owner
    return owners


def _values(column: Any) -> list[Any]:
    """The values of a batch's column; equal texts are one and the same object."""
    dictionary = getattr(column, "dictionary", None)
    if dictionary is None:
        values: list[Any] = column.to_pylist()
        return values
    # The dictionary may be of the whole file: only what this batch uses of it is unpacked.
    texts: dict[int | None, Any] = {None: None}
    indices = column.indices.to_pylist()
    for index in indices:
        if index not in texts:
            texts[index] = dictionary[index].as_py()
    return [texts[index] for index in indices]


class _Errors:
    """Turns whatever pyarrow raises on a damaged file into a `UserError`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            why = " ".join(str(error).split())[:300] or type(error).__name__
            advice = "It may be cut off or damaged: copy or write it again."
            if "lists to be of size" in why:
                advice = (
                    "Your pyarrow cannot read missing lists where all have one length: update it, "
                    "or write lists of any length."
                )
            raise UserError(f"cannot read {self._path} as Parquet: {why}. {advice}") from error


def _pyarrow(path: str) -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f'{path} is a Parquet file, and pyarrow is missing: pip install -e ".[parquet]".'
        ) from error
    return pyarrow
