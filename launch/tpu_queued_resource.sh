#!/usr/bin/env bash
# Trains on a Cloud TPU slice that is requested as a queued resource.
#
#   launch/tpu_queued_resource.sh keep command...   # all of it, until the command ends with 0
#
# `keep` requests the slice, waits for it, installs the commit that is checked out here on all of
# its workers and runs the command on all of them. A slice that is preempted is requested again, and
# the same command goes on from its --workdir=gs://...; at the end the slice is deleted. A command
# that fails by itself is tried again, then the slice is left to look at. Or step by step:
#
#   ... create | wait | setup | run command... | stop | status | delete
#
# `run` follows a command that runs already; `stop` lets it save and end with 75. Commands run in
# the root of the clone: python -m msa_jax.main --distributed --config=... --workdir=gs://...
#
#   TPU_NAME           of the slice and its request
#   ZONE               where it is
#   ACCELERATOR_TYPE   for example v5litepod-16
#   RUNTIME_VERSION    for example v2-alpha-tpuv5-lite
#   PROJECT            (default: gcloud's)
#   SERVICE_ACCOUNT    that the workers use, for the bucket (default: the project's own)
#   SPOT=1             0 asks for a slice that is not preempted
#   POLL=60            seconds between two looks at a request
#   WAIT_LIMIT=86400   seconds to wait for a slice
#   MAX_REQUESTS=50    slices that `keep` asks for, and runs on one that end with 75
#   MAX_FAILURES=3     failures one after another, not of preemption, after which it gives up
#   STEADY=600         seconds of running after which what failed before is forgotten
#   DRY_RUN=1          only prints what would run
set -euo pipefail

# shellcheck source=launch/steps.sh
source "$(dirname "$0")/steps.sh"

verb=${1:-}
[[ $# -eq 0 ]] || shift
case $verb in
  create | keep)
    require ACCELERATOR_TYPE "the kind and size of the slice, for example v5litepod-16"
    require RUNTIME_VERSION "the software of its machines, for example v2-alpha-tpuv5-lite"
    ;;
  wait | setup | run | stop | status | delete) ;;
  *) usage "what is '$verb'?" ;;
esac
require TPU_NAME "the name of the slice"
require ZONE "where the slice is, for example us-west4-a"
POLL=${POLL:-60} WAIT_LIMIT=${WAIT_LIMIT:-86400}
MAX_REQUESTS=${MAX_REQUESTS:-50} MAX_FAILURES=${MAX_FAILURES:-3} STEADY=${STEADY:-600}
require_number POLL 0
require_number WAIT_LIMIT 0
require_number MAX_REQUESTS 1
require_number MAX_FAILURES 1
require_number STEADY 0
case $verb in
  run | keep) [[ $# -gt 0 ]] || usage "which command?" ;;
  *) [[ $# -eq 0 ]] || usage "$verb takes nothing more." ;;
esac
if [[ $verb == keep && " $*" != *" --workdir=gs://"* ]]; then
  usage "keep needs --workdir=gs://...: the disks of a slice are lost with it."
fi

place=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
home=msa_jax_launch # on the workers, in the home directory

tpus() {
  step gcloud compute tpus "$@" "${place[@]}"
}

# A slice that is preempted does not close its connections: ssh has to notice.
on_all_workers() {
  tpus tpu-vm ssh "$TPU_NAME" --worker=all --ssh-flag=-oServerAliveInterval=30 \
    --ssh-flag=-oServerAliveCountMax=4 "--command=$1"
}

# Runs launch/tpu_worker.sh with its arguments on all workers; ends with the status of one that
# failed, or 255 where it was not reached.
worker() {
  local path="\$HOME/$home/venv/bin:\$PATH"
  on_all_workers "cd $home/code && PATH=$path $(show launch/tpu_worker.sh "$@")"
}

create() {
  local options=("--node-id=$TPU_NAME")
  options+=("--accelerator-type=$ACCELERATOR_TYPE" "--runtime-version=$RUNTIME_VERSION")
  [[ ${SPOT:-1} == 0 ]] || options+=(--spot)
  [[ -z ${SERVICE_ACCOUNT:-} ]] || options+=("--service-account=$SERVICE_ACCOUNT")
  tpus queued-resources create "$TPU_NAME" "${options[@]}"
}

delete() {
  tpus queued-resources delete "$TPU_NAME" --force --quiet
}

# Sets `now` to the state of the request: of one that is ACTIVE but whose slice is gone, PREEMPTED;
# ABSENT where there is none; UNKNOWN where that could not be asked.
now=
look() {
  local before=$now answer
  if now=$(gcloud compute tpus queued-resources describe "$TPU_NAME" \
    "--format=value(state.state)" "${place[@]}" 2>&1); then
    now=${now##*$'\n'}
  elif [[ $now == *NOT_FOUND* ]]; then
    now=ABSENT
  else
    say "$now"
    now=UNKNOWN
  fi
  if [[ $now == ACTIVE ]]; then
    answer=$(gcloud compute tpus tpu-vm describe "$TPU_NAME" "--format=value(state)" \
      "${place[@]}" 2>/dev/null) || true
    case $answer in PREEMPTED | TERMINATED) now=PREEMPTED ;; esac
  fi
  [[ $now == "$before" ]] || say "$TPU_NAME is $now."
}

# Waits for the slice; fails where the request has ended without one.
await() {
  local since=$SECONDS
  if [[ -n ${DRY_RUN:-} ]]; then
    tpus queued-resources describe "$TPU_NAME" "--format=value(state.state)"
    echo "# again every $POLL seconds, until it says ACTIVE"
    return
  fi
  while true; do
    look
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | PREEMPTED | DELETING | ABSENT) return 1 ;;
    esac
    if ((SECONDS - since >= WAIT_LIMIT)); then
      say "no slice within $WAIT_LIMIT seconds; the request stays."
      return 1
    fi
    sleep "$POLL"
  done
}

# Copies the commit that is checked out to all workers and installs it in an environment there,
# unless a command runs there. (Every step says what is next, since `keep` goes on after a failure.)
setup() {
  local root archive
  root=$(cd "$(dirname "$0")/.." && pwd)
  [[ -z $(git -C "$root" status --porcelain) ]] || say "what is not committed is not copied."
  archive=${TMPDIR:-/tmp}/msa_jax_$TPU_NAME.tar.gz
  # The machines' own Python may be too old: uv fetches one where it is.
  step git -C "$root" archive --format=tar.gz "--output=$archive" HEAD &&
    on_all_workers "mkdir -p $home/run && touch $home/run/lock" &&
    tpus tpu-vm scp "$archive" "$TPU_NAME:$home/code.tar.gz" --worker=all &&
    on_all_workers "cd $home && if ! flock --nonblock run/lock true; then \
echo 'A command runs here: nothing is installed.'; exit; fi && \
rm -rf code && mkdir code && tar -xzf code.tar.gz -C code && \
PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user 'uv>=0.9,<1' && \
python3 -m uv venv --quiet --allow-existing --python '>=3.11,<3.15' venv && \
python3 -m uv pip install --quiet --python venv/bin/python --editable 'code[tpu]'" &&
    step rm -f "$archive"
}

# Makes the next step from the state of the request, until the command has ended with 0.
keep() {
  local status requests=0 interruptions=0 failures=0 ready='' since=$SECONDS
  trap 'say "stopped. The slice is still there, and costs: see the verbs run, stop and delete."
    exit 130' INT TERM
  if [[ -n ${DRY_RUN:-} ]]; then
    create && await && setup && worker run "$@" && delete
    return
  fi
  while true; do
    look
    status=0
    case $now in
      ACTIVE)
        if [[ -z $ready ]]; then
          if setup; then ready=1; else status=$?; fi
        fi
        if ((status == 0)); then
          since=$SECONDS
          worker run "$@" || status=$?
          if ((SECONDS - since >= STEADY)); then failures=0; fi
          if ((status == 0)); then
            say "finished: deleting the slice."
            delete
            return
          fi
        fi
        since=$SECONDS
        ;;
      ABSENT)
        if ((requests >= MAX_REQUESTS)); then
          say "giving up after $requests slices; the same command goes on from here."
          return 1
        fi
        requests=$((requests + 1)) ready='' since=$SECONDS
        create || status=$?
        ;;
      SUSPENDED | PREEMPTED)
        say "the slice is gone: asking for another."
        if delete; then failures=0; else status=$?; fi # whatever failed, this is why
        ;;
      FAILED)
        delete || true
        status=1
        ;;
      *)
        if ((SECONDS - since >= WAIT_LIMIT)); then
          say "no slice within $WAIT_LIMIT seconds; the request stays."
          return 1
        fi
        sleep "$POLL"
        ;;
    esac
    if ((status == 75)); then
      interruptions=$((interruptions + 1)) failures=0
      say "the run was interrupted, and saved."
      if ((interruptions >= MAX_REQUESTS)); then return 75; fi
      sleep "$POLL"
    elif ((status != 0)); then
      failures=$((failures + 1))
      say "failed with status $status ($failures of $MAX_FAILURES)."
      sleep "$POLL" # of a slice that has just been preempted, the request says so only later
      if ((failures >= MAX_FAILURES)); then
        if [[ $now == ACTIVE ]]; then
          look
          [[ $now == ACTIVE ]] || continue
        fi
        say "giving up. What is there of the slice is left, and costs: see status and delete."
        return "$status"
      fi
    fi
  done
}

case $verb in
  wait) await ;;
  run) worker run "$@" ;;
  stop) worker stop ;;
  status) tpus queued-resources describe "$TPU_NAME" ;;
  *) "$verb" "$@" ;;
esac
