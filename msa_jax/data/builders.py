"""TFDS builders: every source is written once, unpadded, with the same features.

A dataset is written beside its place and moved there at the end (or here, and copied to a bucket),
so an interrupted preparation leaves nothing half-made and can be repeated. Its fingerprint names it
and its content: the digest of its source and split is part of it, so a changed file is prepared
anew.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from msa_jax.config import SYNTHETIC, Data
from msa_jax.data import remote, sources, synthetic, whole
from msa_jax.data.schema import COLUMNS, SPLITS, Utterance
from msa_jax.data.sources.contract import Report
from msa_jax.errors import UserError, nearest

_LONGEST_STEM = 100
_INFO = "dataset_info.json"  # says that a dataset is whole
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")


class _UtteranceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What all sources share: the features of `schema.Utterance`, in the source's order.

    `metadata.json` beside the data tells where they come from and what was dropped.
    """

    def _channels(self) -> Mapping[str, int]:
        """`{modality: C}` of the source."""
        raise AssertionError("each source names its modalities")

    def _splits(self) -> Mapping[str, Iterator[Utterance]]:
        """Utterances by split."""
        raise AssertionError("each source names its splits")

    def _origin(self) -> Mapping[str, Any]:
        """Where the utterances come from, once all have been read: JSON values."""
        raise AssertionError("each source says what it is")

    def _report(self) -> Report:
        """What the reader has noticed so far."""
        return Report()

    def _info(self) -> tfds.core.DatasetInfo:
        columns = {
            "id": tfds.features.Text(),
            "video_id": tfds.features.Text(),
            "segment": np.int32,
            "start": np.float32,
            "end": np.float32,
            "transcript": tfds.features.Text(),
            "score": np.float32,
        }
        frames = {
            modality: tfds.features.Tensor(
                shape=(None, channels), dtype=np.float32, encoding=tfds.features.Encoding.BYTES
            )
            for modality, channels in self._channels().items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict({**columns, **frames}),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> Mapping[str, Any]:
        del dl_manager
        splits, seen = self._splits(), dict[str, str]()
        last = list(splits)[-1]
        return {
            split: self._generate_examples(items, split, seen, split == last)
            for split, items in splits.items()
        }

    def _generate_examples(
        self, utterances: Iterator[Utterance], split: str, seen: dict[str, str], is_last: bool
    ) -> Iterator[tuple[int, Any]]:
        row = -1
        for row, utterance in enumerate(utterances):
            other = seen.setdefault(utterance.id, split)
            if other != split:
                raise UserError(
                    f"{self.builder_config.name}: the utterance {utterance.id!r} is in both "
                    f"{other} and {split}: a model would be tested on what it was trained on. "
                    "Remove it from one of them."
                )
            columns = {
                field.name: getattr(utterance, field.name)
                for field in dataclasses.fields(utterance)
                if field.name != "frames"
            }
            yield row, {**columns, **utterance.frames}
        if row < 0:
            reasons = Counter(dropped.reason for dropped in self._report().dropped)
            shown = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
            raise UserError(
                f"{self.builder_config.name}: no utterance of the split {split} is left (dropped "
                f"by now: {shown or 'none'}). Correct the source, or take the split out of it."
            )
        if is_last:
            self.info.metadata.update(self._origin())  # TFDS saves it at the end, with the data


@dataclasses.dataclass(kw_only=True)
class SyntheticConfig(tfds.core.BuilderConfig):
    """A size of `synthetic_mosei` and its generator's seed."""

    size: str
    seed: int


class SyntheticMosei(_UtteranceBuilder):
    """Synthetic utterances in CMU-MOSEI's shape, whose Bayes accuracy is known."""

    VERSION = tfds.core.Version(synthetic.VERSION)
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's interface)
        SyntheticConfig(name=f"{size}-seed0", size=size, seed=0) for size in synthetic.SIZES
    ]

    def _channels(self) -> Mapping[str, int]:
        return synthetic.CHANNELS

    def _splits(self) -> Mapping[str, Iterator[Utterance]]:
        config = self.builder_config
        return {s: synthetic.utterances(s, config.size, config.seed) for s in SPLITS}

    def _origin(self) -> Mapping[str, Any]:
        name = self.builder_config.name
        return {"format": self.name, "digest": name, "report": self._report().to_json()}


@dataclasses.dataclass(kw_only=True)
class FileConfig(tfds.core.BuilderConfig):
    """A file or folder of utterances; see `msa_jax.data.sources`.

    Attributes:
      path: of it.
      split_column: of a features file or table.
      checksum: that it must have, before it is read and after; what it has now where empty.
    """

    path: str = ""
    split_column: str = "split"
    checksum: str = ""


class Utterances(_UtteranceBuilder):
    """Utterances of a file or folder in any of the formats of `msa_jax.data.sources`.

    From TFDS's own command line (extra `tfds`):
      tfds build utterances --imports=msa_jax.data.builders --file_format=array_record \\
        --config='{"name": "mosei", "path": "mosei_senti_data.pkl"}'
    """

    VERSION = tfds.core.Version("1.0.0")
    builder_config_cls = FileConfig
    # TFDS's command line takes a config as JSON only where there is one by name.
    BUILDER_CONFIGS = [FileConfig(name="unnamed")]  # noqa: RUF012 (TFDS's interface)

    def __init__(self, *, config: Any = None, **kwargs: Any) -> None:
        if not isinstance(config, FileConfig) or not config.path:
            raise UserError(
                "the builder 'utterances' needs a file: give a config with name and path, "
                """for example --config='{"name": "mosei", "path": "mosei_senti_data.pkl"}'."""
            )
        self._checksum = config.checksum or sources.checksum(config.path)
        self._source = sources.open_source(config.path, config.split_column)
        super().__init__(config=config, **kwargs)

    def _channels(self) -> Mapping[str, int]:
        return self._source.channels

    def _splits(self) -> Mapping[str, Iterator[Utterance]]:
        return {split: self._source.utterances(split) for split in self._source.splits}

    def _report(self) -> Report:
        return self._source.report

    def _origin(self) -> Mapping[str, Any]:
        config = self.builder_config
        if sources.checksum(config.path) != self._checksum:
            raise UserError(f"{config.path} has changed while it was read: run again.")
        return {
            "format": self._source.format,
            "digest": _digest(self._checksum, config.split_column),
            "checksum": self._checksum,
            "file": Path(config.path).name,
            "split_column": config.split_column,
            "report": self._report().to_json(),
        }


def prepare(data: Data) -> tfds.core.DatasetBuilder:
    """The prepared dataset that `data` names; prepares it when it is not there yet.

    A dataset that is there is opened and not made again; of its source the checksum is read.

    Raises:
      UserError: if the source cannot be read or breaks the schema; nothing is written then.
    """
    if not data.path and data.name != SYNTHETIC:
        return _named(data)
    builder_class, config = _source(data)
    there = open_prepared(_directory(builder_class, config), data.dir)
    return there or write(builder_class, config, data.dir)


def write(
    builder_class: type[tfds.core.DatasetBuilder],
    config: tfds.core.BuilderConfig,
    data_dir: str,
    *,
    replace: bool = False,
) -> tfds.core.DatasetBuilder:
    """Prepares a dataset in `data_dir`, at once or not at all; what is there stays unless replaced.

    Raises:
      UserError: if the source is refused.
    """
    name, home = _directory(builder_class, config), _root(data_dir)

    def is_made() -> bool:
        return not replace and open_prepared(name, data_dir) is not None

    def generate(folder: epath.PathLike) -> Path:
        named = config.name if config in builder_class.BUILDER_CONFIGS else config
        builder = builder_class(
            config=named, data_dir=str(folder), file_format=tfds.core.FileFormat.ARRAY_RECORD
        )
        builder.download_and_prepare()
        return Path(builder.data_dir)

    with _quiet():
        try:
            if "://" not in str(home):
                whole.make(Path(home) / name, generate, is_made)
            elif not is_made():
                remote.make(home / name, generate, last=_INFO, known=repr(config), replace=replace)
        except OSError as error:
            raise UserError(
                f"cannot write {home / name}: {error.strerror or error}. Choose another --data_dir "
                "(config.data.dir, or TFDS_DATA_DIR)."
            ) from error
    prepared = open_prepared(name, data_dir)
    if prepared is None:
        raise UserError(f"{home / name} was replaced by another process meanwhile: run again.")
    return prepared


def open_prepared(fingerprint: str, data_dir: str) -> tfds.core.DatasetBuilder | None:
    """The prepared dataset of that name in `data_dir` (TFDS's default where empty), if any.

    Args:
      fingerprint: `builder/config/version`; with `@digest`, the content must be that too.
      data_dir: where prepared datasets live.
    """
    name, _, digest = fingerprint.partition("@")
    directory = _root(data_dir) / name
    if not remote.exists(directory / _INFO):
        return None
    with _quiet():
        builder = tfds.builder_from_directory(directory)
    return None if digest and metadata(builder).get("digest") != digest else builder


def identify(data: Data) -> str:
    """The fingerprint of the dataset that `data` names, prepared or not.

    Raises:
      UserError: if it names a file that cannot be read, or a dataset that is not there.
    """
    if not data.path and data.name != SYNTHETIC:
        return fingerprint(_named(data))
    return _directory(*_source(data))


def identify_at_hand(data: Data) -> str | None:
    """As `identify`; None where that cannot be read, or would have to be fetched from a bucket."""
    if data.path and ("://" in data.path or not epath.Path(data.path).exists()):
        return None
    with contextlib.suppress(UserError):
        return identify(data)
    return None


def fingerprint(builder: tfds.core.DatasetBuilder) -> str:
    """Names a prepared dataset and its content."""
    name = f"{builder.info.name}/{builder.info.config_name}/{builder.info.version}"
    digest = metadata(builder).get("digest", "")
    return name if digest in name else f"{name}@{digest}"


def modalities(builder: tfds.core.DatasetBuilder) -> list[str]:
    """The modalities of a prepared dataset, by name: TFDS keeps no order."""
    return sorted(name for name in builder.info.features if name not in COLUMNS)


def metadata(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """What `metadata.json` tells of a prepared dataset: its source and what was dropped."""
    file = epath.Path(builder.data_dir) / "metadata.json"
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return content


def check_name(name: str) -> None:
    """Raises UserError unless `name` can name a prepared dataset."""
    if not _NAME.fullmatch(name) or name == SYNTHETIC:
        raise UserError(
            f"--name={name} cannot name a dataset: use letters, digits, _ and -, starting with a "
            f"letter, and not {SYNTHETIC}."
        )


def named_directory(name: str, data_dir: str) -> epath.Path:
    """Where the dataset that `scripts/prepare_data.py` writes under `name` lives."""
    return _root(data_dir) / Utterances.name / name / str(Utterances.VERSION)


def open_named(name: str, data_dir: str) -> tfds.core.DatasetBuilder | None:
    """The dataset that `scripts/prepare_data.py` has written under `name`, if any."""
    return open_prepared(f"{Utterances.name}/{name}/{Utterances.VERSION}", data_dir)


def _directory(
    builder_class: type[tfds.core.DatasetBuilder], config: tfds.core.BuilderConfig
) -> str:
    """Where TFDS keeps a dataset, below its root."""
    return f"{builder_class.name}/{config.name}/{builder_class.VERSION}"


def _root(data_dir: str) -> epath.Path:
    return epath.Path(os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR))


def _named(data: Data) -> tfds.core.DatasetBuilder:
    builder = open_named(data.name, data.dir)
    if builder is None:
        folder = _root(data.dir) / Utterances.name
        known = [item.name for item in folder.glob("*") if not item.name.startswith(".")]
        raise UserError(
            f"config.data.name={data.name!r} is no dataset in {_root(data.dir)}. "
            f"{nearest(data.name, [SYNTHETIC, *known])} Prepare it with scripts/prepare_data.py, "
            "or say where it is with config.data.dir."
        )
    return builder


def _source(data: Data) -> tuple[type[tfds.core.DatasetBuilder], tfds.core.BuilderConfig]:
    if data.path:
        path = remote.local(data.path)
        stem = re.sub(r"[^A-Za-z0-9_]", "_", Path(path).stem)[:_LONGEST_STEM]
        checksum = sources.checksum(path)
        return Utterances, FileConfig(
            name=f"{stem}-{_digest(checksum, data.split_column)}",
            path=path,
            split_column=data.split_column,
            checksum=checksum,
        )
    name = f"{data.size}-seed{data.seed}"
    return SyntheticMosei, SyntheticConfig(name=name, size=data.size, seed=data.seed)


def _digest(checksum: str, split_column: str) -> str:
    """Names what a dataset holds: the content of its source, and how that is split."""
    return hashlib.sha256(f"{checksum} {split_column}".encode()).hexdigest()[:12]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's progress bars for terminals, and its remarks on custom configs to itself."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        if sys.stderr.isatty():
            yield
        else:
            with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
                tfds.disable_progress_bar()
                yield
    finally:
        logging.set_verbosity(verbosity)
