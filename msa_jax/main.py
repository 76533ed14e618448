"""Trains and evaluates a system.

  python -m msa_jax.main --config=configs/attention.py --workdir=DIR [--config.FIELD=VALUE ...]

The same command on the same DIR goes on where it stopped, or reports that it is finished.
"""

from msa_jax import command

_CONFIG = command.define_config()


def main() -> None:
    """Trains what the flags describe."""
    # JAX, Flax and TensorFlow take seconds to import: --help and a mistyped flag need none of them.
    from msa_jax import sharding, train

    config = _CONFIG.value
    sharding.spread_over_cores(config.num_seeds)
    train.train_and_evaluate(config, command.WORKDIR.value)


if __name__ == "__main__":
    command.run(main)
