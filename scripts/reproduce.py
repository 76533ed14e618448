"""Reproduces the base paper's tables with many seeds, and writes a report.

python scripts/reproduce.py --workdir=DIR --quick                    (embedded data, minutes)
python scripts/reproduce.py --workdir=DIR --config.data.path=mosei.pkl --seeds=10

Interrupted, the same command goes on; what is trained is not trained again. It leaves report.html,
report.md and report.json, and each run in DIR/<system>/seed_<seed>.
"""

import importlib
from typing import Any

from absl import flags

from msa_jax import command

command.find_configs()
_COMMON = command.define_config(importlib.import_module("configs.common").get_config())
_SEEDS = flags.DEFINE_integer("seeds", 10, "Runs of each system.", lower_bound=1)
_QUICK = flags.DEFINE_boolean(
    "quick",
    False,
    "The variant :quick for three quarters of its epochs; no control of DAF.",
)
_JOBS = flags.DEFINE_integer(
    "jobs",
    None,
    "Systems trained side by side; only a CPU takes more than 1 (default: 2 on a CPU, else 1).",
    lower_bound=1,
)
_VARIANT = flags.DEFINE_string("variant", "", "Of every config, such as mosi for small data.")


def main() -> None:
    """Trains, judges and writes the report."""
    import jax  # late: not for --help or a mistyped flag

    from msa_jax import cpu, processes, reproduce, workdir
    from msa_jax.errors import UserError
    from msa_jax.report import html, markdown, reproduction

    cpu.prepare(_SEEDS.value)
    processes.check_alone()
    jobs = _JOBS.value or (2 if jax.default_backend() == "cpu" else 1)
    if jobs > 1 and jax.default_backend() != "cpu":
        raise UserError(f"--jobs={jobs}: systems share a CPU, but no {jax.default_backend()}.")
    variant = "+".join(filter(None, ["quick" if _QUICK.value else "", _VARIANT.value]))

    def load(name: str) -> Any:
        config = importlib.import_module(f"configs.{name}").get_config(variant)
        config.num_seeds = _SEEDS.value
        return config

    directory = command.WORKDIR.value
    systems = reproduce.systems(
        load,
        tuple(_COMMON.value.data.modalities),
        command.overrides(),
        directory,
        brief=_QUICK.value,
    )
    report = reproduce.reproduce(systems, directory, print, jobs)
    histories = {
        each.name: reproduce.histories(directory, each.name)
        for each in systems
        if each.config is not None
    }
    page = reproduction.document(report, histories)
    run = workdir.Workdir(directory)
    for name, png in page.figures.items():
        workdir.write_bytes(run.path / "figures" / name, png)
    workdir.write_text(run.path / "report.md", markdown.render(page))
    workdir.write_text(run.path / "report.html", html.render(page))
    workdir.write_json(run.path / "report.json", report)
    print(f"The report: {run.path / 'report.html'} (and .md, .json)")


if __name__ == "__main__":
    command.run(main, required=["workdir"])
