#!/usr/bin/env bash
# Runs one job on all hosts of a Cloud TPU slice, by gcloud.
#
#   bash launch/tpu_vm.sh create
#   bash launch/tpu_vm.sh run --job=train_sft --gin_file=... --output_dir=...
#   bash launch/tpu_vm.sh logs | status | delete
#
# NAME, ZONE and TYPE (such as v5litepod-256) identify the slice; PROJECT defaults
# to gcloud's. `run` installs this checkout's HEAD on every host, starts the job
# on all of them and waits. It recreates a preempted slice and resumes the job;
# it stops after RETRIES (default 3) failures in a row. --output_dir is a folder
# that all hosts see, such as Filestore; SETUP is a command that each host runs
# first, to mount it. SPOT=1 requests spot capacity, VERSION is the image, EXTRAS
# the extras to install. LIBTPU_INIT_ARGS (compiler options) is passed on to the
# hosts. With --dry_run as first argument, prints the commands.
set -euo pipefail
cd "$(dirname "$0")/.."

dry_run=
if [ "${1:-}" = "--dry_run" ]; then
  dry_run=1
  shift
fi
action=${1:---help}
shift || true
if [ "$action" = "--help" ]; then
  sed -n '2,16s/^# \{0,1\}//p' "$0"
  exit 0
fi
: "${NAME:?set the name of the slice, such as NAME=rlaif}"
: "${ZONE:?set its zone, such as ZONE=us-west4-a}"
version=${VERSION:-v2-alpha-tpuv5-lite}
where=("--zone=$ZONE")
if [ -n "${PROJECT:-}" ]; then
  where+=("--project=$PROJECT")
fi

tpu() { # tpu VERB [ARGUMENTS...]: runs gcloud's command for slices
  local command=(gcloud compute tpus tpu-vm "$@" "${where[@]}")
  if [ -n "$dry_run" ]; then
    printf '%q ' "${command[@]}"
    echo
  else
    "${command[@]}"
  fi
}

on_all() { # on_all COMMAND: runs it in a shell on every host
  tpu ssh "$NAME" --worker=all --command="$1"
}

create() {
  : "${TYPE:?set the type of the slice, such as TYPE=v5litepod-256}"
  local more=()
  if [ "${SPOT:-0}" = 1 ]; then
    more+=(--spot)
  fi
  tpu create "$NAME" --accelerator-type="$TYPE" --version="$version" "${more[@]}"
}

install() {
  local archive
  archive=$(mktemp -d)/rlaif_jax.tar.gz
  git archive --format=tar.gz --output="$archive" HEAD
  tpu scp "$archive" "$NAME:rlaif_jax.tar.gz" --worker=all
  on_all "${SETUP:-true} && mkdir -p rlaif_jax && tar xzf rlaif_jax.tar.gz -C rlaif_jax && \
cd rlaif_jax && { [ -x .venv/bin/python ] || python3 -m venv .venv; } && \
.venv/bin/pip install --quiet -e '.[${EXTRAS:-data,report,models}]' 'jax[tpu]'"
}

state() { # prints READY, PREEMPTED, TERMINATED ...; GONE without a slice
  if [ -n "$dry_run" ]; then
    echo READY
  else
    tpu describe "$NAME" --format='value(state)' 2>/dev/null || echo GONE
  fi
}

make_ready() { # creates the slice if needed and installs the code
  local now
  now=$(state)
  if [ "$now" != READY ]; then
    echo "$NAME is $now: recreating it" >&2
    if [ "$now" != GONE ]; then
      tpu delete "$NAME" --quiet || true
    fi
    # Retries until there is capacity.
    until create; do
      sleep "${WAIT_SECONDS:-60}"
    done
  fi
  install
}

run() {
  local job tries=0
  job=$(printf '%q ' env "LIBTPU_INIT_ARGS=${LIBTPU_INIT_ARGS:-}" \
    python -m rlaif_jax.main "$@")
  while true; do
    if make_ready; then
      # Each host stores its output for `logs`.
      if on_all "set -o pipefail
cd rlaif_jax && PATH=\$PWD/.venv/bin:\$PATH $job 2>&1 | tee -a ~/rlaif_jax.log"; then
        return 0
      fi
    fi
    if [ "$(state)" = READY ]; then
      tries=$((tries + 1))
      if [ "$tries" -ge "${RETRIES:-3}" ]; then
        echo "$NAME: failed $tries times on healthy hosts; see" \
          "bash launch/tpu_vm.sh logs" >&2
        return 1
      fi
    else
      tries=0
    fi
    echo "$NAME: restarting" >&2
    sleep "${WAIT_SECONDS:-60}"
  done
}

case $action in
  create) create ;;
  run) run "$@" ;;
  logs) on_all "tail -n ${LINES_SHOWN:-50} ~/rlaif_jax.log" ;;
  status) state ;;
  delete) tpu delete "$NAME" --quiet ;;
  *)
    echo "no action '$action'; use create, run, logs, status or delete" >&2
    exit 2
    ;;
esac
