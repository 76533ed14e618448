"""Turns people's files into a verified dataset, and writes its card.

python scripts/prepare_data.py --source=PATH --name=NAME [--data_dir=DIR]

PATH is a pickle of MultiBench's or MMSA's layout, a folder of CMU-MultimodalSDK .csd files, a
features file (.npz), or .csv or .parquet tables: which of them is found by looking into it. Train
on the result with --config.data.name=NAME (and --config.data.dir=DIR).
"""

import argparse
import sys

from msa_jax.errors import UserError


def main() -> None:
    """Parses the command line, prepares and prints the card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="file or folder")
    parser.add_argument("--name", required=True, help="of the dataset")
    parser.add_argument("--data_dir", default="", help="where prepared datasets live")
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
    print(f"{prepared.directory} {state}; card.md and card.json are in it. Train on it with")
    place = f" --config.data.dir={args.data_dir}" if args.data_dir else ""
    print(
        "  python -m msa_jax.main --config=configs/attention.py --workdir=DIR "
        f"--config.data.name={args.name}{place}"
    )
    if warning := store.videos_warning(prepared.card["videos_in_two_splits"]):
        print(f"warning: {warning}", file=sys.stderr)


if __name__ == "__main__":
    main()
