#!/usr/bin/env bash
# The checks that are too long for every change.
#
#   bash launch/nightly.sh
#
# Every training on five meshes of eight devices with both kinds of model, and in
# several processes; every job killed 20 times at random moments; every plan that
# is shipped, on v5e, v5p and v6e, compiled by the real compiler (libtpu; no TPU
# is needed). Two hours on two cores; `-k plans` runs the plans alone.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 0
fi
# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$PWD" "data,report,models,tpu,test"
export JAX_PLATFORMS=cpu RLAIF_NIGHTLY=1 RLAIF_KILLS=${RLAIF_KILLS:-20}
python -m pytest -n "${RLAIF_TEST_WORKERS:-2}" tests/e2e/multidevice_test.py \
  tests/e2e/processes_test.py tests/e2e/resume_test.py \
  tests/e2e/plans_test.py tests/jobs/plan_run_test.py \
  tests/planner/programs_test.py tests/planner/chips_test.py "$@" </dev/null
