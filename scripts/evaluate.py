"""Evaluates the best checkpoint of a run; needs nothing but its directory and the data.

python scripts/evaluate.py --workdir=DIR --split=test --out=FILE.json [--predictions=FILE.csv]
"""

import argparse
import sys

from msa_jax import command
from msa_jax.errors import UserError


def main() -> None:
    """Parses the command line, evaluates, prints a table and writes the files asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="directory of the run")
    parser.add_argument("--split", default="test", help="train, valid or test")
    parser.add_argument("--out", help="JSON file for metrics, intervals and baselines")
    parser.add_argument("--predictions", help="CSV file for a row an utterance")
    parser.add_argument("--data_path", default="", help="features, if not the run's own data")
    parser.add_argument("--data_name", default="", help="of a prepared dataset, instead")
    parser.add_argument("--split_column", default="split", help="of --data_path")
    parser.add_argument("--data_dir", default="", help="where prepared datasets live")
    args = parser.parse_args()
    command.keep_programs()

    from msa_jax import evaluate, workdir  # JAX and TensorFlow: not for --help
    from msa_jax.report import table

    try:
        restored = evaluate.restore(
            args.workdir,
            args.split,
            data_path=args.data_path,
            data_name=args.data_name,
            data_dir=args.data_dir,
            split_column=args.split_column,
        )
        evaluation = restored.evaluate()
    except UserError as error:
        sys.exit(f"error: {error}")
    report = {
        "workdir": args.workdir,
        "step": restored.step,
        "split": args.split,
        "dataset": evaluation.split.fingerprint,
        **evaluation.report(),
    }
    if args.out:
        workdir.write_json(args.out, report)
    if args.predictions:
        workdir.write_text(args.predictions, evaluation.table().to_csv(evaluation.task))
    print("\n".join(table.split("model", report)))


if __name__ == "__main__":
    main()
