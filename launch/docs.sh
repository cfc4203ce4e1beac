#!/usr/bin/env bash
# The documentation site, from nothing.
#
#   bash launch/docs.sh           # builds it into site/
#   bash launch/docs.sh serve     # serves it on http://127.0.0.1:8000
#   bash launch/docs.sh execute   # runs the notebooks and stores their outputs
#
# Makes the environment first. A broken link or a page outside the navigation is
# an error. RLAIF_VENV names another place for the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 0
fi
# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$PWD" "data,report,docs"
export JAX_PLATFORMS=cpu NO_MKDOCS_2_WARNING=1
case ${1:-build} in
  build) mkdocs build --strict --clean ;;
  serve) mkdocs serve ;;
  execute)
    jupyter nbconvert --to notebook --execute --inplace \
      --ExecutePreprocessor.record_timing=False docs/tutorials/*.ipynb
    ;;
  *)
    echo "no action '$1'; use build, serve or execute" >&2
    exit 2
    ;;
esac
