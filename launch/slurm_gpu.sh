#!/usr/bin/env bash
#SBATCH --job-name=msa_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Trains on a node's GPUs, or on those of several nodes. Two minutes before the time limit, and when
# it is preempted, the run saves and the job queues itself again; it goes on where it stopped, since
# the same command on the same directory resumes. What `scancel` ends saves too, and stays ended.
# Submit it from the root of the clone.
#
#   sbatch launch/slurm_gpu.sh --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]
#   sbatch --gpus-per-node=4 launch/slurm_gpu.sh ...     # one process with four GPUs
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 launch/slurm_gpu.sh ...
#   DRY_RUN=1 launch/slurm_gpu.sh ...                    # only prints what would run
#
# Several processes need one task per GPU: under Slurm, JAX gives each process the GPU whose number
# is the task's on its node. DIR must then be seen by all nodes.
#
#   MAX_RESTARTS=50   how often the job queues itself again
set -euo pipefail

root=${SLURM_SUBMIT_DIR:-$(dirname "$0")/..} # of a job, $0 is a copy elsewhere
# shellcheck source=launch/steps.sh
source "$root/launch/steps.sh"

[[ $# -gt 0 ]] || usage "which config, which directory?"
MAX_RESTARTS=${MAX_RESTARTS:-50}
require_number MAX_RESTARTS 0
cd "$root"
if [[ -f .venv/bin/activate ]]; then
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi

command=(python -m msa_jax.main "$@")
tasks=${SLURM_NTASKS:-1}
if ((tasks > 1)); then
  gpus=$((${SLURM_GPUS_ON_NODE:-0} * ${SLURM_JOB_NUM_NODES:-1}))
  ((gpus == 0 || gpus == tasks)) ||
    usage "$tasks tasks for $gpus GPUs: give as many --ntasks-per-node as --gpus-per-node."
  command+=(--distributed)
fi
# Processes that are told to stop save together: none ends another (a lost one JAX notices itself).
launcher=(srun --kill-on-bad-exit=0 --wait=600 "--cpus-per-task=${SLURM_CPUS_PER_TASK:-1}")

trap : TERM # Slurm signals the processes itself; this shell stays to queue the job again
status=0
step "${launcher[@]}" "${command[@]}" || status=$?
if ((status == 75)); then
  # Of a job that was cancelled, or that Slurm queues again by itself, the state is another by now;
  # of one that saves until after its time limit too, but its reason tells. A task of an array is
  # named in full: the id of one of them is that of all.
  job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
  state=$(squeue --noheader --jobs="$job" --format='%T %r') || state=RUNNING
  if [[ $state != RUNNING* && $state != "COMPLETING TimeLimit" ]]; then
    state=${state%% *}
    say "was interrupted, and is ${state:-gone}. Unless Slurm has queued it: submit it to go on."
  elif ((${SLURM_RESTART_COUNT:-0} >= MAX_RESTARTS)); then
    say "was interrupted, for the $((MAX_RESTARTS + 1))th time: submit it again to go on."
  else
    say "was interrupted, and queues again."
    scontrol requeue "$job" || say "could not: submit it again to go on."
  fi
fi
exit "$status"
