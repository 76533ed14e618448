"""Measures how far runs fall when modalities or frames are missing, or features are noisy.

python scripts/robustness.py --workdir=DIR [--workdir=DIR ...] --split=test --out=DIR

Curves of several directories stand side by side. One that holds `seed_*` directories stands for
its seeds: means and standard deviations over them.
"""

import argparse
import os
import sys

from msa_jax import command
from msa_jax.errors import UserError


def main() -> None:
    """Parses the command line, measures, says what falls and writes the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, action="append", help="directory of a run")
    parser.add_argument("--split", default="test", help="train, valid or test")
    parser.add_argument("--out", required=True, help="directory for robustness.json, .md, .html")
    parser.add_argument("--mask_seeds", type=int, default=3, help="number of draws, 3 by default")
    parser.add_argument("--data_path", default="", help="features, if not the runs' own data")
    parser.add_argument("--data_name", default="", help="of a prepared dataset, instead")
    parser.add_argument("--split_column", default="split", help="of --data_path")
    parser.add_argument("--data_dir", default="", help="where prepared datasets live")
    args = parser.parse_args()
    command.keep_programs()

    from msa_jax import evaluate, robustness, workdir  # JAX and TensorFlow: not for --help
    from msa_jax.report import html, markdown
    from msa_jax.report import robustness as robustness_report

    mask_seeds = range(args.mask_seeds)
    try:
        if not mask_seeds:
            raise UserError(f"--mask_seeds={args.mask_seeds}: expected at least 1.")
        models = {}
        for name, directory in workdir.names(args.workdir).items():
            models[name] = [
                robustness.measure(
                    run,
                    evaluate.restore(
                        run,
                        args.split,
                        data_path=args.data_path,
                        data_name=args.data_name,
                        data_dir=args.data_dir,
                        split_column=args.split_column,
                    ),
                    mask_seeds,
                )
                for run in workdir.runs(directory)
            ]
        report = robustness.report(models, mask_seeds)
    except UserError as error:
        sys.exit(f"error: {error}")
    shown = robustness_report.document(report)
    workdir.write_json(os.path.join(args.out, "robustness.json"), report)
    for name, png in shown.figures.items():
        workdir.write_bytes(os.path.join(args.out, "figures", name), png)
    workdir.write_text(os.path.join(args.out, "robustness.md"), markdown.render(shown))
    workdir.write_text(os.path.join(args.out, "robustness.html"), html.render(shown))
    print("\n".join(robustness_report.lines(report)))


if __name__ == "__main__":
    main()
