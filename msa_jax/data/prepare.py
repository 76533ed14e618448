"""Prepares a dataset under a name of its own, with a card."""

import dataclasses
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from msa_jax.data import builders, card, remote, sources
from msa_jax.errors import UserError
from msa_jax.workdir import write_json, write_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared dataset.

    Attributes:
      builder: opens it.
      card: see `card.build`; also `card.json` and `card.md` in `directory`.
      directory: where it is.
      was_there: whether it had been prepared before.
    """

    builder: tfds.core.DatasetBuilder
    card: dict[str, Any]
    directory: epath.Path
    was_there: bool


def prepare(
    source: str, name: str, data_dir: str, *, split_column: str = "split", overwrite: bool = False
) -> Prepared:
    """Prepares `source` as the dataset `name`, to train on with `--config.data.name`.

    Nothing is changed before the new dataset is whole: an interrupted preparation can be repeated.

    Args:
      source: a file or folder in any format of `msa_jax.data.sources`, maybe in a bucket.
      name: of the dataset.
      data_dir: where prepared datasets live; empty for TFDS's default.
      split_column: of a features file or table.
      overwrite: replace a dataset of that name that has another content.

    Raises:
      UserError: if the source is refused, or the name is taken by other content.
    """
    builders.check_name(name)
    source = remote.local(source)
    directory = builders.named_directory(name, data_dir)
    wanted = {"checksum": sources.checksum(source), "split_column": split_column}

    def there() -> tfds.core.DatasetBuilder | None:
        """The dataset, if it has the content that is wanted."""
        builder = builders.open_named(name, data_dir)
        if builder is None:
            return None
        known = builders.metadata(builder)
        if wanted.items() <= known.items():
            return builder
        if overwrite:
            return None
        raise UserError(
            f"{directory} was prepared from other data ({known.get('file', 'unknown')}, splits by "
            f"{known.get('split_column', 'split')!r}). Choose another --name, or replace it with "
            "--overwrite."
        )

    builder = before = there()
    if builder is None:
        config = builders.FileConfig(name=name, path=source, **wanted)
        builders.write(builders.Utterances, config, data_dir, replace=overwrite)
        builder = there()  # another process may have been faster, with other data
    if builder is None:
        raise UserError(f"{directory} was replaced by another process meanwhile: run again.")
    page = card.build(builder)
    if before is None or not (directory / "card.md").exists():
        write_json(directory / "card.json", page)
        write_text(directory / "card.md", card.markdown(page))
    return Prepared(builder=builder, card=page, directory=directory, was_there=before is not None)
