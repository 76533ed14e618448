#!/usr/bin/env bash
# Runs a command on one worker of a TPU slice, apart from the connection that starts it.
#
#   launch/tpu_worker.sh run command...   # starts it, or follows it where it runs already
#   launch/tpu_worker.sh stop             # SIGTERM: the run saves and ends with 75
#
# `run` prints what the command prints and ends with its status; a connection that breaks ends only
# the printing. `launch/tpu_queued_resource.sh` calls this on all workers.
#
#   RUN=DIR     for the lock, the log and the status (default: ~/msa_jax_launch/run)
#   DRY_RUN=1   only prints what would run
set -euo pipefail

# shellcheck source=launch/steps.sh
source "$(dirname "$0")/steps.sh"

verb=${1:-}
[[ $# -eq 0 ]] || shift
RUN=${RUN:-~/msa_jax_launch/run}

# Whether a command runs here: it holds the lock as long as it, or what it started, lives.
running() {
  ! flock --nonblock "$RUN/lock" true
}

case $verb in
  run)
    [[ $# -gt 0 ]] || usage "which command?"
    if [[ -n ${DRY_RUN:-} ]]; then show "$@" && exit; fi
    mkdir -p "$RUN"
    touch "$RUN/lock"
    if running; then
      if [[ $(show "$@") != "$(<"$RUN/command")" ]]; then
        say "another command runs here: $(<"$RUN/command"). Stop it first."
        exit 1
      fi
      say "it runs already: following it."
    else
      rm -f "$RUN/status"
      show "$@" >"$RUN/command"
      : >"$RUN/log" # here, or `tail` below might still read the log of the command before
      # shellcheck disable=SC2016
      setsid bash -c '
        trap : TERM # wait for the status of a command that is told to stop
        exec 9>"$1/lock" && flock 9
        status=0
        "${@:2}" || status=$?
        echo "$status" >"$1/status.new" && mv "$1/status.new" "$1/status"
      ' worker "$RUN" "$@" </dev/null >>"$RUN/log" 2>&1 &
      echo "$!" >"$RUN/pid"
    fi
    tail --follow --lines=+1 --sleep-interval=0.2 --pid="$(<"$RUN/pid")" "$RUN/log"
    if [[ ! -f $RUN/status ]]; then
      say "the command was killed."
      exit 137
    fi
    exit "$(<"$RUN/status")"
    ;;
  stop)
    if [[ -f $RUN/lock ]] && running; then
      step kill -TERM -- "-$(<"$RUN/pid")"
    else
      say "nothing runs here."
    fi
    ;;
  *) usage "what is '$verb'?" ;;
esac
