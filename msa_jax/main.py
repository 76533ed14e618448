"""Trains and evaluates a system.

  python -m msa_jax.main --config=configs/attention.py --workdir=DIR [--config.FIELD=VALUE ...]

The same command on the same DIR goes on where it stopped, or reports that it is finished. SIGTERM
saves and ends it with status 75. With --distributed, or `JAX_COORDINATOR_ADDRESS` in the
environment, it is one of the processes of a cluster that train together; each is given the same
command.
"""

import contextlib
import os

from absl import flags

from msa_jax import command

_CONFIG = command.define_config()
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes: of Slurm, a TPU pod, GKE, or JAX_NUM_PROCESSES"
)
_JOIN_SECONDS = flags.DEFINE_integer(
    "join_seconds", 300, "How long processes wait for one another at the start", lower_bound=1
)


def main() -> None:
    """Trains what the flags describe."""
    # JAX, Flax and TensorFlow take seconds to import: --help and a mistyped flag need none of them.
    from msa_jax import processes

    several = _DISTRIBUTED.value or processes.COORDINATOR in os.environ
    with processes.cluster(_JOIN_SECONDS.value) if several else contextlib.nullcontext():
        stop = processes.StopNotice()
        from msa_jax import cpu, train

        config = _CONFIG.value
        if not several:
            cpu.prepare(config.num_seeds)
            processes.check_alone()
        train.train_and_evaluate(config, command.WORKDIR.value, stop)


if __name__ == "__main__":
    command.run(main)
