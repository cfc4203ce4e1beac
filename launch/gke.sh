#!/usr/bin/env bash
# Runs one job on a TPU slice of GKE, as a JobSet.
#
#   NAME=sft IMAGE=... bash launch/gke.sh --job=train_sft --gin_file=... \
#     --output_dir=/shared/sft
#
# Applies the manifest by kubectl; with --dry_run as first argument, prints it.
# The cluster needs JobSet, and Kueue if QUEUE is set (clusters created by XPK
# have both; their queue is multislice-queue). IMAGE has this package and
# jax[tpu]. ACCELERATOR (default tpu-v5-lite-podslice), TOPOLOGY (16x16), HOSTS
# (64) and CHIPS per host (4) describe the slice. RESTARTS (default 20) is the
# maximum number of restarts; a restarted job resumes from its last checkpoint.
# CLAIM is the volume claim of a shared disk, mounted at /shared.
# LIBTPU_INIT_ARGS (compiler options) is passed on to the hosts.
set -euo pipefail

if [ "${1:-}" = "--help" ] || [ $# -eq 0 ]; then
  sed -n '2,16s/^# \{0,1\}//p' "$0"
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
    "$((hosts * chips)); expected equal numbers" >&2
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
    # A slice runs this job only.
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
          # All hosts restart if one ends, since they run one program.
          backoffLimit: 0
          parallelism: $hosts
          completions: $hosts
          template:
            spec:
              restartPolicy: Never
              # Time to save a checkpoint after the preemption notice.
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
