#!/usr/bin/env bash
# Creates the environment and runs all tests.
# Arguments go to pytest: bash launch/test.sh tests/ops -k kl
set -euo pipefail

if [ "${1:-}" = "--help" ]; then
  echo "usage: bash launch/test.sh [pytest arguments]"
  echo "  RLAIF_VENV          folder of the environment (default .venv)"
  echo "  RLAIF_PYTHON        interpreter of the environment (default python3)"
  echo "  RLAIF_TEST_WORKERS  number of processes (default 2)"
  echo "  RLAIF_TEST_CACHE    folder of compiled programs, reused between runs"
  exit 0
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$root" data,report,models,test
exec python -m pytest -n "${RLAIF_TEST_WORKERS:-2}" --dist worksteal "$@" </dev/null
