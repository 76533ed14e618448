#!/usr/bin/env bash
# Runs a command as N processes of one JAX cluster on this machine.
#
#   launch/local.sh N command...
#   DEVICES=4 launch/local.sh 2 python -m msa_jax.main --distributed \
#     --config=configs/attention.py:quick --config.training.batch_size=48 --workdir=DIR
#
# Process 0 is shown; what the others print is shown where one of them fails. SIGINT and SIGTERM go
# to all. Ends with 0 when all did; 75 (run the same command again) when the others said so; else
# with the status of the first that failed, and ends the others.
#
#   DEVICES=D   CPU only, D devices in each process (default: the devices that JAX finds)
#   GRACE=30    seconds that the others have once one has failed, before they are killed
#   LOGS=DIR    keeps the output of processes 1 .. N-1 there
#   PORT=P      of process 0, where the others meet it (default: a free one)
#   DRY_RUN=1   only prints what would run
set -euo pipefail

# shellcheck source=launch/steps.sh
source "$(dirname "$0")/steps.sh"

[[ ${1:-} =~ ^[1-9][0-9]{0,3}$ ]] || usage "the first argument must be the number of processes."
count=$1
shift
[[ ${1:-} != -- ]] || shift
[[ $# -gt 0 ]] || usage "which command?"
GRACE=${GRACE:-30}
require_number GRACE 0

# A port below those that the system gives out by itself, where nobody listens.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 12000))
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port" && return; }
  done
  say "found no free port: name one with PORT."
  return 1
}

PORT=${PORT:-$(free_port)}
variables=("JAX_COORDINATOR_ADDRESS=127.0.0.1:$PORT" "JAX_NUM_PROCESSES=$count")
if [[ -n ${DEVICES:-} ]]; then
  require_number DEVICES 1
  flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES"
  variables+=(JAX_PLATFORMS=cpu "XLA_FLAGS=$flags")
fi
if [[ -n ${DRY_RUN:-} ]]; then
  for ((i = 0; i < count; i++)); do
    show env "${variables[@]}" "JAX_PROCESS_ID=$i" "$@"
  done
  exit 0
fi

if [[ -n ${LOGS:-} ]]; then
  mkdir -p "$LOGS"
  logs=$LOGS
else
  logs=$(mktemp -d)
  trap 'rm -rf "$logs"' EXIT
fi

pids=() statuses=() failed=() deadline=

# Sends a signal to the processes that still run, and to those that they have started.
signal() {
  local i
  for i in "${!pids[@]}"; do
    [[ -n ${statuses[i]:-} ]] || kill "-$1" -- "-${pids[i]}" 2>/dev/null || true
  done
}

trap 'signal TERM' TERM HUP
trap 'signal INT' INT

for ((i = 0; i < count; i++)); do
  set -m # each is a process group of its own, so that a signal from here reaches it once
  if ((i == 0)); then
    env "${variables[@]}" "JAX_PROCESS_ID=$i" "$@" </dev/null &
  else
    env "${variables[@]}" "JAX_PROCESS_ID=$i" "$@" </dev/null >"$logs/process_$i.log" 2>&1 &
  fi
  pids+=("$!")
  set +m
done

while ((${#statuses[@]} < count)); do
  for i in "${!pids[@]}"; do
    if [[ -n ${statuses[i]:-} ]] || kill -0 "${pids[i]}" 2>/dev/null; then continue; fi
    status=0
    wait "${pids[i]}" || status=$?
    statuses[i]=$status
    ((status == 0)) || failed+=("$i")
    if ((status != 0)) && [[ -z $deadline ]]; then
      deadline=$((SECONDS + GRACE))
      # Those that are told to stop (75) do so together; of a lost one the others may not know.
      ((status == 75)) || signal TERM
    fi
  done
  if [[ -n $deadline ]] && ((SECONDS > deadline)); then
    signal KILL
  fi
  sleep 0.1 || true # a signal to the whole group ends it too
done

result=0
for i in ${failed[@]+"${failed[@]}"}; do # in the order in which they failed
  if ((result == 0 || result == 75)); then result=${statuses[i]}; fi
done
if ((result != 0 && result != 75)); then
  say "ended with ${statuses[*]} (processes 0 to $((count - 1))); first was process ${failed[0]}."
  for i in "${failed[@]}"; do
    if ((i > 0)) && { ((i == failed[0])) || [[ ${statuses[i]} != 1[34][37] ]]; }; then
      say "process $i, its last lines:"
      tail -n 40 "$logs/process_$i.log" >&2
    fi
  done
fi
exit "$result"
