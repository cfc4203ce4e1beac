#!/usr/bin/env bash
# Runs the exhaustive tests, which take three hours on two cores.
#
#   bash launch/nightly.sh [pytest arguments]
#
# Adds to launch/test.sh: every training job on five meshes of eight devices with
# both model families, and in two or four processes; every job killed 20 times at
# random, and with a full disk, a read-only folder, a second process, changed
# inputs and damaged files (-k chaos; mounts, so it needs root); every plan recipe
# on v5e, v5p and v6e, compiled by the TPU compiler (libtpu; needs no TPU). `-k
# plans` runs the plans alone; every toy recipe, made small; 20 kills of paid
# labelling; packed prompts of all model families. Damaged files of every format
# are read for RLAIF_FUZZ_SECONDS, an hour by default (launch/fuzz.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ]; then
  sed -n '2,14s/^# \{0,1\}//p' "$0"
  exit 0
fi
# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$PWD" "data,report,models,tpu,test"
# Without arguments only: they choose tests.
if [ $# = 0 ]; then
  bash launch/fuzz.sh "${RLAIF_FUZZ_SECONDS:-3600}"
fi
export JAX_PLATFORMS=cpu RLAIF_NIGHTLY=1 RLAIF_KILLS=${RLAIF_KILLS:-20}
python -m pytest -n "${RLAIF_TEST_WORKERS:-2}" --dist worksteal tests/e2e/multidevice_test.py \
  tests/e2e/processes_test.py tests/e2e/resume_test.py tests/e2e/chaos_test.py \
  tests/e2e/toy_recipes_test.py tests/e2e/paid_labels_test.py \
  tests/models/prefix_attention_test.py \
  tests/e2e/plans_test.py tests/jobs/plan_run_test.py \
  tests/planner/programs_test.py tests/planner/chips_test.py "$@" </dev/null
