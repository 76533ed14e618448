"""Tries values of scalar fields, all in one program, and ranks them on validation alone."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msa_jax import config as config_lib
from msa_jax import metrics, population, statistics, system, train
from msa_jax.config import Config
from msa_jax.errors import UserError
from msa_jax.member import Member
from msa_jax.workdir import Workdir

Trial = Mapping[str, float]


def grid(values: Mapping[str, Sequence[float]]) -> list[Trial]:
    """Every combination of `{dotted name: values}`."""
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def draw(ranges: Mapping[str, tuple[float, float]], count: int, seed: int = 0) -> Sequence[Trial]:
    """`count` draws from `{dotted name: (least, greatest)}`.

    Rates of learning and decay are drawn evenly in their logarithm, dropout as it is.

    Raises:
      UserError: if a range is empty or has no logarithm.
    """
    rng = np.random.default_rng(seed)
    trials: list[dict[str, float]] = [{} for _ in range(count)]
    for name, (least, greatest) in ranges.items():
        even = name.endswith("dropout")
        if not least <= greatest or (not even and least <= 0):
            bound = "" if even else " above 0"
            raise UserError(f"{name}={least}..{greatest}: expected least..greatest{bound}.")
        for trial in trials:
            share = rng.random()
            trial[name] = (
                least + share * (greatest - least)
                if even
                else math.exp(math.log(least) + share * math.log(greatest / least))
            )
    return trials


def sweep(config: Any, workdir: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """Trains every trial with every seed of `config` in one program.

    Args:
      config: what all trials share, as `train.train_and_evaluate` takes it; `num_seeds` runs each.
      workdir: for all files. `trial_<i>_seed_<seed>` therein becomes a run of its own. A sweep that
        was interrupted goes on.
      trials: `{dotted name: value}` of what differs; see `population.check_can_vary`.

    Returns:
      What `results.json` holds: `trials`, best first by the mean of `config.training.selection`
      over seeds on the validation split. Test figures are in each run's own results, and have no
      say here.

    Raises:
      UserError: on a field that cannot be swept, or a value that it cannot take.
      DivergedError: if every trial diverges.
    """
    base = config_lib.resolve(config)
    run = Workdir(workdir)
    finished = run.results()
    if finished:
        run.check(base)
        if "trials" not in finished:
            raise UserError(f"{run.path} holds a finished run, no sweep: use another --workdir.")
        if sorted(map(_named, trials)) != sorted(_named(t["values"]) for t in finished["trials"]):
            raise UserError(f"{run.path} holds a sweep of other values: use another --workdir.")
        return finished
    configs: dict[str, Config] = {}
    names: list[list[str]] = []
    for number, trial in enumerate(trials):
        for name in trial:
            population.check_can_vary(name)
        one = config_lib.resolve(config_lib.to_dict(config_lib.with_values(base, trial)))
        system.build(one)  # refuses a dropout that this model does not have
        members = population.of_seeds(one)
        names.append([f"trial_{number}_{seed}" for seed in members])
        configs |= dict(zip(names[-1], members.values(), strict=True))
    run.check(base)
    trained = train.train_together(configs, run, base)
    ranked = [
        _judged(trial, base, {name: trained[name] for name in group})
        for trial, group in zip(trials, names, strict=True)
    ]
    selection = base.training.selection
    sign = 1 if selection in metrics.LOWER_IS_BETTER else -1
    ranked.sort(key=lambda each: math.inf if each["mean"] is None else sign * each["mean"])
    results = run.write_results({"selection": f"valid {selection}", "trials": ranked})
    run.remove_checkpoints()
    return results


def _named(trial: Trial) -> list[tuple[str, float]]:
    return sorted((name, float(value)) for name, value in trial.items())


def _judged(trial: Trial, config: Config, members: Mapping[str, Member]) -> dict[str, Any]:
    """A trial's values and what validation says of it.

    The mean is None where a seed diverged or its metric is undefined: such a trial ranks last.
    """
    selection = config.training.selection
    known = [m.selected["metrics"][selection] for m in members.values() if m.selected]
    diverged = [name for name, member in members.items() if member.diverged is not None]
    usable = known and not diverged and not np.isnan(known).any()
    spread = statistics.over_seeds(np.array(known)) if usable else None
    return {
        "values": dict(trial),
        "mean": spread.mean if spread else None,
        "std": spread.std if spread else None,
        "runs": list(members),
        "diverged": diverged,
    }


def table(results: Mapping[str, Any]) -> str:
    """The ranking as a Markdown table."""
    names = list(dict.fromkeys(name for each in results["trials"] for name in each["values"]))
    lines = [
        f"| rank | {' | '.join(names)} | {results['selection']} | sd | runs |",
        "| --- " * (len(names) + 4) + "|",
    ]
    for rank, each in enumerate(results["trials"], start=1):
        values = [f"{each['values'][name]:.4g}" for name in names]
        failed = "diverged" if each["diverged"] else "undefined"
        mean = failed if each["mean"] is None else f"{each['mean']:.4f}"
        spread = "-" if each["std"] is None else f"{each['std']:.4f}"
        lines.append(
            f"| {rank} | {' | '.join(values)} | {mean} | {spread} | {', '.join(each['runs'])} |"
        )
    return "\n".join(lines) + "\n"
