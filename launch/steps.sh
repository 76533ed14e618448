#!/usr/bin/env bash
# Sourced by the launchers: the usage text, settings that must be given, and the dry run.

# Prints a script's header comment and, where given, what is wrong; ends with status 2.
usage() {
  local line
  [[ $# -eq 0 ]] || printf 'error: %s\n\n' "$1" >&2
  while IFS= read -r line; do
    [[ $line == '#!'* || $line == '#SBATCH'* ]] && continue
    [[ $line == '#'* ]] || break
    line=${line#\#}
    printf '%s\n' "${line# }" >&2
  done <"$0"
  exit 2
}

# Ends with the usage text unless the environment variable $1, which says $2, is set.
require() {
  [[ -n ${!1:-} ]] || usage "$1 is not set: $2."
}

# Ends with the usage text unless the environment variable $1 holds a whole number from $2 on; takes
# leading zeros from it, with which bash would read it as octal.
require_number() {
  if [[ ! ${!1} =~ ^[0-9]{1,9}$ ]] || ((10#${!1} < $2)); then
    usage "$1=${!1} is not a whole number of $2 or more."
  fi
  printf -v "$1" '%d' "$((10#${!1}))"
}

# Prints a command in one line that a shell would read back.
show() {
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

# Runs a command or, where DRY_RUN is set, prints it.
step() {
  if [[ -n ${DRY_RUN:-} ]]; then show "$@"; else "$@"; fi
}

# Tells a person what happens.
say() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
}
