"""Turns people's files into a verified dataset, and writes its card.

python scripts/prepare_data.py --source=PATH --name=NAME [--data_dir=DIR]

PATH is a pickle of MultiBench's or MMSA's layout, a folder of CMU-MultimodalSDK .csd files, a
features file (.npz), or .csv or .parquet tables: which of them is found by looking into it. Train
on the result with --config.data.name=NAME (and --config.data.dir=DIR).
"""

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from msa_jax.errors import UserError

if TYPE_CHECKING:
    from msa_jax.data.prepare import Prepared

_SMALL = 5000  # training utterances


def main() -> None:
    """Parses the command line, prepares and prints the card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="file or folder")
    parser.add_argument("--name", required=True, help="of the dataset")
    parser.add_argument("--data_dir", default="", help="where prepared datasets live; gs:// works")
    parser.add_argument("--split_column", default="split", help="of a features file or table")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()

    from msa_jax.data import card, prepare, store  # TensorFlow: not for --help

    try:
        prepared = prepare.prepare(
            args.source,
            args.name,
            args.data_dir,
            split_column=args.split_column,
            overwrite=args.overwrite,
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    print(card.markdown(prepared.card))
    state = "was there already" if prepared.was_there else "is ready"
    print(f"{prepared.directory} {state}; card.md and card.json are in it.")
    missing = {"train", "valid"} - set(prepared.card["splits"])
    if missing:
        print(
            f"It has no {' and no '.join(sorted(missing))}, which training needs; "
            f"scripts/evaluate.py takes it with --data_name={args.name}."
        )
    else:
        print(f"Train on it with\n  {_command(args.name, args.data_dir, prepared)}")
    if warning := store.videos_warning(prepared.card["videos_in_two_splits"]):
        print(f"warning: {warning}", file=sys.stderr)


def _command(name: str, data_dir: str, prepared: "Prepared") -> str:
    """What trains on the dataset: on a small one a small model, and on the modalities it has."""
    variant = ":mosi" if prepared.card["splits"]["train"]["kept"] < _SMALL else ""
    words = ["python -m msa_jax.main", f"--config=configs/attention.py{variant}", "--workdir=DIR"]
    words.append(f"--config.data.name={name}")
    found = list(prepared.card["splits"]["train"]["modalities"])
    if set(found) != {"text", "audio", "vision"}:
        words.append(f'--config.data.modalities="{tuple(found)}"')
    if data_dir:
        words.append(f"--config.data.dir={shlex.quote(data_dir)}")
    return " ".join(words)


if __name__ == "__main__":
    main()
