"""TFDS builders: every source is written once, unpadded, with the same features.

TFDS writes into a temporary directory and renames it at the end, so an interrupted preparation
leaves nothing half-made and can be repeated. The name of a builder's config identifies the content
(for a file, a digest of its bytes), so a changed file is prepared anew.
"""

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from msa_jax.config import Data
from msa_jax.data import features_npz, synthetic
from msa_jax.data.schema import SPLITS, Utterance


class _UtteranceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What all sources share: the features of `schema.Utterance`, in the source's order."""

    def _channels(self) -> Mapping[str, int]:
        """`{modality: C}` of the source."""
        raise AssertionError("each source names its modalities")

    def _splits(self) -> Mapping[str, Iterator[Utterance]]:
        """Utterances by split."""
        raise AssertionError("each source names its splits")

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
        )

    def _split_generators(self, dl_manager: Any) -> Mapping[str, Any]:
        del dl_manager
        return {split: self._generate_examples(items) for split, items in self._splits().items()}

    def _generate_examples(self, utterances: Iterator[Utterance]) -> Iterator[tuple[int, Any]]:
        for row, utterance in enumerate(utterances):
            columns = {
                field.name: getattr(utterance, field.name)
                for field in dataclasses.fields(utterance)
                if field.name != "frames"
            }
            yield row, {**columns, **utterance.frames}


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


@dataclasses.dataclass(kw_only=True)
class FeaturesNpzConfig(tfds.core.BuilderConfig):
    """A features file and the column that splits it."""

    path: str
    split_column: str


class FeaturesNpz(_UtteranceBuilder):
    """Utterances of a features file (.npz)."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, config: FeaturesNpzConfig, **kwargs: Any) -> None:
        self._file = features_npz.FeaturesFile(config.path, config.split_column)
        super().__init__(config=config, **kwargs)

    def _channels(self) -> Mapping[str, int]:
        return self._file.channels

    def _splits(self) -> Mapping[str, Iterator[Utterance]]:
        return {split: self._file.utterances(split) for split in self._file.counts}


def prepare(data: Data) -> tfds.core.DatasetBuilder:
    """The prepared dataset that `data` names; prepares it when it is not there yet.

    A dataset that is there is opened without reading its source.

    Raises:
      UserError: if the source cannot be read or breaks the schema; nothing is written then.
    """
    builder_class, config = _source(data)
    wanted = _name(builder_class, config)
    prepared = open_prepared(wanted, data.dir)
    if prepared is not None:
        return prepared
    named = config.name if config.name in builder_class.builder_configs else config
    with _quiet():
        builder = builder_class(
            config=named,
            data_dir=os.path.expanduser(data.dir) or None,
            file_format=tfds.core.FileFormat.ARRAY_RECORD,
        )
        try:
            builder.download_and_prepare()
        except (OSError, tf.errors.OpError):
            # Another process may have prepared the same data meanwhile: TFDS then cannot rename.
            if open_prepared(wanted, data.dir) is None:
                raise
    prepared = open_prepared(wanted, data.dir)
    assert prepared is not None
    return prepared


def open_prepared(fingerprint: str, data_dir: str) -> tfds.core.DatasetBuilder | None:
    """The prepared dataset of that name in `data_dir` (TFDS's default where empty), if any."""
    root = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
    directory = epath.Path(root) / fingerprint
    if not (directory / "dataset_info.json").exists():
        return None
    with _quiet():
        return tfds.builder_from_directory(directory)


def identify(data: Data) -> str:
    """The fingerprint of the dataset that `data` names, prepared or not.

    Raises:
      UserError: if it names a file that cannot be read.
    """
    return _name(*_source(data))


def _source(data: Data) -> tuple[type[tfds.core.DatasetBuilder], tfds.core.BuilderConfig]:
    if data.path:
        stem = re.sub(r"[^A-Za-z0-9_]", "_", Path(data.path).stem)
        name = f"{stem}-{features_npz.digest(data.path)}-{data.split_column}"
        npz = FeaturesNpzConfig(name=name, path=data.path, split_column=data.split_column)
        return FeaturesNpz, npz
    name = f"{data.size}-seed{data.seed}"
    return SyntheticMosei, SyntheticConfig(name=name, size=data.size, seed=data.seed)


def _name(builder: type[tfds.core.DatasetBuilder], config: tfds.core.BuilderConfig) -> str:
    return f"{builder.name}/{config.name}/{builder.VERSION}"


def fingerprint(builder: tfds.core.DatasetBuilder) -> str:
    """Names the prepared dataset: builder, config (which identifies the content) and version."""
    return f"{builder.info.name}/{builder.info.config_name}/{builder.info.version}"


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
