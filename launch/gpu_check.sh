#!/usr/bin/env bash
# Checks an installation on the device at hand, in ten minutes at most.
#
#   bash launch/gpu_check.sh [--sizes=135m,1b,8b] [--minutes=8]
#
# Compares the device's attention kernels with plain attention and sampled
# log-probs with whole passes, then times rollout, judge, reward, DPO and RL steps,
# and writes the table to $RLAIF_RUNS/gpu_check.md (default runs). Set
# RLAIF_VENV to use an environment whose JAX has a GPU; JAX_PLATFORMS=cpu with
# --sizes=tiny tries the script itself.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit 0
fi
# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$PWD" "models"
mkdir -p "${RLAIF_RUNS:-runs}"
python -m rlaif_jax.bench.device_check "$@" | tee "${RLAIF_RUNS:-runs}/gpu_check.md"
