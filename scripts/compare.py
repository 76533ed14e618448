"""Says which differences between finished runs are real.

python scripts/compare.py --workdir=DIR --workdir=DIR [...] [--split=test] [--out=FILE.json]

A directory that holds `seed_*` directories stands for its seeds. Every two systems are compared on
the same utterances by a test that takes seeds and videos as random, corrected for all comparisons.
"""

import argparse
import sys

from msa_jax.errors import UserError


def main() -> None:
    """Parses the command line, compares and prints tables and sentences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, action="append", help="of a run or its seeds")
    parser.add_argument("--split", default="test", help="valid or test")
    parser.add_argument("--out", default="", help="JSON file for the figures")
    args = parser.parse_args()

    from msa_jax import comparison, workdir  # JAX and TensorFlow: not for --help
    from msa_jax.report import reproduction, table

    try:
        found = comparison.compare(args.workdir, args.split)
    except UserError as error:
        sys.exit(f"error: {error}")
    if args.out:
        workdir.write_json(args.out, found)
    for name, each in found["systems"].items():
        print(f"{name} ({each['seeds']} seeds, {found['n']} utterances)")
        part = {"metrics": each["metrics"], "baselines": found["baselines"]}
        print("\n".join(table.seeds(name, part)))
    if len({each["context"] == "none" for each in found["systems"].values()}) > 1:
        print("Some systems see an utterance's neighbours (context), others judge it alone.")
    names = {name: name for name in found["systems"]}
    for each in found["comparisons"]:
        print(reproduction.sentence(each, names).replace("**", ""))


if __name__ == "__main__":
    main()
