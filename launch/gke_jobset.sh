#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster: renders a JobSet, and creates it with kubectl.
#
#   launch/gke_jobset.sh command...
#   DRY_RUN=1 launch/gke_jobset.sh command... >jobset.yaml   # only prints the manifest
#
# The command runs on every host of the slice, for example
#   python -m msa_jax.main --distributed --config=... --workdir=gs://...
# A run that is preempted saves, ends with 75 and is restarted without limit; one that fails
# otherwise is restarted MAX_RESTARTS times. The same command goes on from its --workdir.
# The cluster needs JobSet (https://jobset.sigs.k8s.io) and a node pool of that topology.
#
#   NAME               of the JobSet
#   IMAGE              built with: docker build --file=launch/Dockerfile --tag=IMAGE .
#   ACCELERATOR        for example tpu-v5-lite-podslice
#   TOPOLOGY           for example 4x4
#   CHIPS_PER_HOST=4   of the node pool's machines
#   SPOT=1             0 takes nodes that are not preempted
#   SERVICE_ACCOUNT    Kubernetes's, that may use the bucket (default: the namespace's own)
#   NAMESPACE          (default: kubectl's)
#   MAX_RESTARTS=10    after failures; a node that is lost without notice is one
#   GRACE=60           seconds to save in (spot nodes may give less)
#   PRIVILEGED=0       1 runs as root, with all rights: for nodes that keep their TPUs for it
set -euo pipefail

# shellcheck source=launch/steps.sh
source "$(dirname "$0")/steps.sh"

require NAME "the name of the JobSet"
require IMAGE "the container image"
require ACCELERATOR "the label cloud.google.com/gke-tpu-accelerator of the nodes"
require TOPOLOGY "the label cloud.google.com/gke-tpu-topology of the nodes, for example 4x4"
CHIPS_PER_HOST=${CHIPS_PER_HOST:-4} MAX_RESTARTS=${MAX_RESTARTS:-10} GRACE=${GRACE:-60}
require_number CHIPS_PER_HOST 1
require_number MAX_RESTARTS 0
require_number GRACE 0
[[ $# -gt 0 ]] || usage "which command?"
[[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  usage "NAME=$NAME: use at most 40 lower-case letters, digits and -, starting with a letter."
[[ $TOPOLOGY =~ ^[1-9][0-9]{0,2}(x[1-9][0-9]{0,2}){1,2}$ ]] ||
  usage "TOPOLOGY=$TOPOLOGY is not like 4x4 or 2x2x4."
[[ " $*" == *" --workdir=gs://"* ]] ||
  usage "the command needs --workdir=gs://...: the disks of a pod are lost with it."
for word in "$@" "$IMAGE" "$ACCELERATOR" "${SERVICE_ACCOUNT:-}"; do
  [[ $word != *[[:cntrl:]]* ]] || usage "there is a line break or a control character in $word."
done

chips=$((${TOPOLOGY//x/ * }))
hosts=$((chips / CHIPS_PER_HOST))
((hosts * CHIPS_PER_HOST == chips)) ||
  usage "TOPOLOGY=$TOPOLOGY, $chips chips, does not divide into hosts of $CHIPS_PER_HOST chips."

# A string as JSON, which is YAML too.
quoted() {
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "$text"
}

# An argument, of which Kubernetes shall not replace $(...).
argument() {
  quoted "${1//\$(/\$\$(}"
}

manifest() {
  local words separator=''
  words=$(for word in "$@"; do printf '%s' "$separator" && argument "$word" && separator=', '; done)
  cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    # All hosts of one slice, and of no other.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $MAX_RESTARTS
    rules:
      - name: interrupted
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          completions: $hosts
          parallelism: $hosts
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: train, operator: In, values: [75]}
              - action: FailJob
                onPodConditions: [{type: DisruptionTarget, status: "True"}]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $GRACE
${SERVICE_ACCOUNT:+              serviceAccountName: $(quoted "$SERVICE_ACCOUNT")
}              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $(quoted "$ACCELERATOR")
                cloud.google.com/gke-tpu-topology: $(quoted "$TOPOLOGY")
$([[ ${SPOT:-1} == 0 ]] || echo '                cloud.google.com/gke-spot: "true"')
              containers:
                - name: train
                  image: $(quoted "$IMAGE")
                  command: [$words]
$([[ ${PRIVILEGED:-0} == 0 ]] ||
    echo '                  securityContext: {privileged: true, runAsUser: 0}')
                  resources:
                    requests: {google.com/tpu: $CHIPS_PER_HOST}
                    limits: {google.com/tpu: $CHIPS_PER_HOST}
END
}

text=$(manifest "$@" | grep -v '^$')
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%s\n' "$text"
else
  kubectl create ${NAMESPACE:+"--namespace=$NAMESPACE"} --filename=- <<<"$text"
fi
