#!/usr/bin/env bash
# Reads damaged files of every format, and prints a table of what came of it.
#
#   bash launch/fuzz.sh [SECONDS [FOLDER/FILE ...]]
#
# Runs for an hour by default, about ten cases a second. A case that hangs, takes
# over 2 GB, or ends in anything but an error that names the file is printed with
# its seed; the exit code is then 1. RLAIF_FUZZ_SEED=N begins with seed N.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit 0
fi
# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$PWD" "data,report,models,test"
export JAX_PLATFORMS=cpu
python -m tests.fuzz.runner "${1:-3600}" "${@:2}" </dev/null
