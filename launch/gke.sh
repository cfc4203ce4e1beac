#!/usr/bin/env bash
# One job on a TPU slice of GKE, as a JobSet.
#
#   NAME=sft IMAGE=... bash launch/gke.sh --job=train_sft --gin_file=... \
#     --output_dir=/shared/sft
#
# Prints the manifest into `kubectl apply -f -`; --dry_run first prints it to
# the terminal alone. The cluster needs JobSet, and Kueue where QUEUE is set
# (clusters that XPK makes have both; their queue is multislice-queue). IMAGE
# has this package installed with jax[tpu]. ACCELERATOR (default
# tpu-v5-lite-podslice), TOPOLOGY (16x16), HOSTS (64) and CHIPS of a host (4)
# say what slice; RESTARTS (default 20) how often it is started again. A job
# that is restarted resumes from its last checkpoint. CLAIM is the volume
# claim of a disk that all hosts see; it is mounted at /shared. LIBTPU_INIT_ARGS,
# options of the TPU's compiler, is that of the hosts too.
set -euo pipefail

if [ "${1:-}" = "--help" ] || [ $# -eq 0 ]; then
  sed -n '2,17s/^# \{0,1\}//p' "$0"
  exit 0
fi
dry_run=
if [ "$1" = "--dry_run" ]; then
  dry_run=1
  shift
fi
: "${NAME:?NAME is the name of the JobSet, such as NAME=sft}"
: "${IMAGE:?IMAGE is a container image with rlaif_jax and jax[tpu]}"
hosts=${HOSTS:-64}
chips=${CHIPS:-4}
topology=${TOPOLOGY:-16x16}
product=1
for side in ${topology//x/ }; do
  product=$((product * side))
done
if [ "$product" -ne $((hosts * chips)) ]; then
  echo "TOPOLOGY $topology has $product chips and HOSTS x CHIPS are" \
    "$((hosts * chips)); they should be the same" >&2
  exit 2
fi

list() { # list INDENT WORDS...: as YAML strings
  local indent=$1 word
  shift
  for word in "$@"; do
    word=${word//\\/\\\\}
    printf '%*s- "%s"\n' "$indent" '' "${word//\"/\\\"}"
  done
}

manifest() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    # One slice to itself.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
YAML
  if [ -n "${QUEUE:-}" ]; then
    cat <<YAML
  labels:
    kueue.x-k8s.io/queue-name: $QUEUE
YAML
  fi
  cat <<YAML
spec:
  failurePolicy:
    maxRestarts: ${RESTARTS:-20}
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          # When one host ends all are started again: they are one program.
          backoffLimit: 0
          parallelism: $hosts
          completions: $hosts
          template:
            spec:
              restartPolicy: Never
              # Time to save after the notice of preemption.
              terminationGracePeriodSeconds: 180
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: ${ACCELERATOR:-tpu-v5-lite-podslice}
                cloud.google.com/gke-tpu-topology: $topology
              containers:
                - name: rlaif-jax
                  image: $IMAGE
                  command:
                    - "python"
                    - "-m"
                    - "rlaif_jax.main"
$(list 20 "$@")
                  env:
                    - name: LIBTPU_INIT_ARGS
                      value: "${LIBTPU_INIT_ARGS:-}"
                  resources:
                    limits:
                      google.com/tpu: $chips
YAML
  if [ -n "${CLAIM:-}" ]; then
    cat <<YAML
                  volumeMounts:
                    - name: shared
                      mountPath: /shared
              volumes:
                - name: shared
                  persistentVolumeClaim:
                    claimName: $CLAIM
YAML
  fi
}

if [ -n "$dry_run" ]; then
  manifest "$@"
else
  manifest "$@" | kubectl apply -f -
fi
