"""Compiles the train step for TPU slices on a machine without one: memory, traffic, least time.

pip install -e ".[tpu]"
python scripts/compile_for_tpu.py --config=configs/attention.py --topology=v5e:2x4,v5e:16x16 \\
  [--batch_per_chip=32] [--config.mesh.data=1 --config.mesh.fsdp=-1 ...] [--out=FILE.json]

The batch is `config.training.batch_size` over all chips, as in training, or --batch_per_chip on
each. Features are as wide as CMU-MOSEI's, and all utterances as long as `config.data.max_length`.
"""

import os

from absl import flags

from msa_jax import command

_CONFIG = command.define_config()
_TOPOLOGY = flags.DEFINE_list("topology", None, "TPUs and shapes of slices, such as v5e:4x4.")
_BATCH_PER_CHIP = flags.DEFINE_integer(
    "batch_per_chip",
    None,
    "Utterances a step on each chip; else config.training.batch_size divides over all chips.",
    lower_bound=1,
)
_OUT = flags.DEFINE_string("out", None, "JSON file for all figures.")

# libtpu asks the cloud what machine this is, and complains of every answer it does not get.
_NOT_A_TPU = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # what is compiled here cannot be loaded here
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # its lock guards chips, which a compiler does not take
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def main() -> None:
    """Compiles and prints what the program takes."""
    os.environ.update(_NOT_A_TPU)
    from msa_jax import workdir
    from msa_jax.benchmarks import tpu
    from msa_jax.report import table

    found = tpu.measure(_CONFIG.value, _TOPOLOGY.value, _BATCH_PER_CHIP.value)
    for each in found:
        print("\n".join(table.figures(each)), end="\n\n")
    print(tpu.table(found), end="")
    if _OUT.value:
        workdir.write_json(_OUT.value, found)


if __name__ == "__main__":
    command.run(main, required=("config", "topology"))
