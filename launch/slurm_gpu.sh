#!/usr/bin/env bash
#SBATCH --job-name=msa_jax
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#
# One node, one process, every GPU that Slurm gives. A requeued job goes on where it stopped, since
# the same command on the same directory resumes.
#
#   sbatch launch/slurm_gpu.sh --config=configs/attention.py --workdir=DIR [--config.FIELD=VALUE ...]
#   DRY_RUN=1 launch/slurm_gpu.sh --config=...      # only prints what would run
set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: sbatch launch/slurm_gpu.sh --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]" >&2
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
if [[ -f .venv/bin/activate ]]; then
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi
command=(python -m msa_jax.main "$@")
if [[ -n "${DRY_RUN:-}" ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
exec "${command[@]}"
