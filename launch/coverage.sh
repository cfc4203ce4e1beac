#!/usr/bin/env bash
# Runs the tests and measures which lines of rlaif_jax/ they execute.
# Arguments go to pytest: bash launch/coverage.sh tests/ops
set -euo pipefail

if [ "${1:-}" = "--help" ]; then
  echo "usage: bash launch/coverage.sh [pytest arguments]"
  echo "  Prints a table and writes build/coverage/index.html; fails below the"
  echo "  minimum in pyproject.toml. See launch/test.sh for the variables."
  exit 0
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$root" data,report,models,test
rm -f build/coverage/data*
mkdir -p build/coverage
python -m coverage run -m pytest -n "${RLAIF_TEST_WORKERS:-2}" --dist worksteal \
  "$@" </dev/null
python -m coverage combine --quiet
python -m coverage html --quiet
python -m coverage report --skip-covered
