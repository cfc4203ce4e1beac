#!/usr/bin/env bash
#SBATCH --job-name=rlaif_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@180
#
# Runs one job on Slurm nodes with GPUs, one process per node.
#
#   sbatch [OPTIONS] launch/slurm.sh --job=train_sft --gin_file=... \
#     --output_dir=/shared/runs/sft
#
# OPTIONS of sbatch (such as --nodes=4) override those above. --output_dir is a
# folder that all nodes see. Three minutes before the time limit, and on
# preemption, the job saves a checkpoint and is requeued. RLAIF_VENV is the
# environment (default: .venv of this checkout). With --dry_run as first
# argument, prints the command.
set -euo pipefail

if [ "${1:-}" = "--help" ] || [ $# -eq 0 ]; then
  sed -n '10,21s/^# \{0,1\}//p' "$0"
  exit 0
fi
dry_run=
if [ "$1" = "--dry_run" ]; then
  dry_run=1
  shift
fi
# Slurm runs a copy of this script; sbatch was called in the checkout.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
python=${RLAIF_VENV:-$PWD/.venv}/bin/python
command=(srun --kill-on-bad-exit=1 "$python" -m rlaif_jax.main "$@")
if [ -n "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi

# Slurm signals this shell only, which forwards the signal to all processes.
"${command[@]}" &
step=$!
trap 'kill -TERM "$step"' TERM
code=0
wait "$step" || code=$?
if kill -0 "$step" 2>/dev/null; then # The signal interrupted `wait`, not the job.
  code=0
  wait "$step" || code=$?
fi
if [ "$code" -eq 75 ]; then # Preempted and saved (rlaif_jax.main).
  echo "stopped and saved; requeued"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
