#!/usr/bin/env bash
# One job on all hosts of a Cloud TPU slice, by gcloud.
#
#   bash launch/tpu_vm.sh create
#   bash launch/tpu_vm.sh run --job=train_sft --gin_file=... --output_dir=...
#   bash launch/tpu_vm.sh logs | status | delete
#
# NAME, ZONE and TYPE (such as v5litepod-256) name the slice, PROJECT (or
# gcloud's own setting) whose it is. `run` installs this checkout's HEAD on
# every host, starts the job on all of them and waits: where the hosts are
# preempted it creates them again and resumes; a job that fails RETRIES times
# (default 3) in a row ends it. --output_dir must be a folder that all hosts
# see, such as Filestore: SETUP is a command that each host runs first, to mount
# it. SPOT=1 asks for spot capacity, VERSION names the image, EXTRAS the extras
# to install. LIBTPU_INIT_ARGS, options of the TPU's compiler, is that of the
# hosts too. --dry_run first: print what would run.
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
  sed -n '2,17s/^# \{0,1\}//p' "$0"
  exit 0
fi
: "${NAME:?NAME is the name of the slice, such as NAME=rlaif}"
: "${ZONE:?ZONE is where it is, such as ZONE=us-west4-a}"
version=${VERSION:-v2-alpha-tpuv5-lite}
where=("--zone=$ZONE")
if [ -n "${PROJECT:-}" ]; then
  where+=("--project=$PROJECT")
fi

tpu() { # tpu VERB [ARGUMENTS...]: gcloud's command for slices, here
  local command=(gcloud compute tpus tpu-vm "$@" "${where[@]}")
  if [ -n "$dry_run" ]; then
    printf '%q ' "${command[@]}"
    echo
  else
    "${command[@]}"
  fi
}

on_all() { # on_all COMMAND: in a shell on every host
  tpu ssh "$NAME" --worker=all --command="$1"
}

create() {
  : "${TYPE:?TYPE is the kind of slice, such as TYPE=v5litepod-256}"
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

state() { # READY, PREEMPTED, TERMINATED ...; GONE where there is none
  if [ -n "$dry_run" ]; then
    echo READY
  else
    tpu describe "$NAME" --format='value(state)' 2>/dev/null || echo GONE
  fi
}

make_ready() { # a slice with the code on it
  local now
  now=$(state)
  if [ "$now" != READY ]; then
    echo "$NAME is $now: creating it again" >&2
    if [ "$now" != GONE ]; then
      tpu delete "$NAME" --quiet || true
    fi
    # Spot capacity comes when it comes.
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
      # What a host says is kept there too, for `logs`.
      if on_all "set -o pipefail
cd rlaif_jax && PATH=\$PWD/.venv/bin:\$PATH $job 2>&1 | tee -a ~/rlaif_jax.log"; then
        return 0
      fi
    fi
    if [ "$(state)" = READY ]; then
      tries=$((tries + 1))
      if [ "$tries" -ge "${RETRIES:-3}" ]; then
        echo "$NAME: failed $tries times on hosts that are well; see" \
          "bash launch/tpu_vm.sh logs" >&2
        return 1
      fi
    else
      tries=0
    fi
    echo "$NAME: starting again" >&2
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
