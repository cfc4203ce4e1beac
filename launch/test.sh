#!/usr/bin/env bash
# From nothing to a tested checkout: makes the environment, runs all tests.
# Arguments go to pytest: bash launch/test.sh tests/ops -k kl
set -euo pipefail

if [ "${1:-}" = "--help" ]; then
  echo "usage: bash launch/test.sh [pytest arguments]"
  echo "  RLAIF_VENV          environment to use or make (default .venv)"
  echo "  RLAIF_PYTHON        interpreter to make it with (default python3)"
  echo "  RLAIF_TEST_WORKERS  processes (default 2; 0: none but this one)"
  exit 0
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$root" data,report,models,test
exec python -m pytest -n "${RLAIF_TEST_WORKERS:-2}" "$@" </dev/null
