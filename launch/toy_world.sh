#!/usr/bin/env bash
# Every experiment of the rig, and one page with its tables and figures.
#
#   bash launch/toy_world.sh [DIRECTORY]
#
# DIRECTORY (default: runs) takes a folder for each recipe toy_*.gin, and
# rig_report/ with report.html and tables.md. Killed and started again, it goes
# on where it was; about half an hour on a quiet core. With RLAIF_VENV an
# environment elsewhere is used.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit 0
fi
runs=${1:-runs}

# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$PWD" "report"
export JAX_PLATFORMS=cpu
mkdir -p "$runs"
runs=$(cd "$runs" && pwd)
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/.jax_cache}

for recipe in gin_configs/recipes/toy_*.gin; do
  name=$(basename "$recipe" .gin)
  echo "== $name"
  python -m rlaif_jax.main --job=toy_world --gin_file="$recipe" \
    --output_dir="$runs/$name" >"$runs/$name.log"
done
python -m rlaif_jax.main --job=toy_world_report --runs_dir="$runs" \
  --output_dir="$runs/toy_world_report" >"$runs/toy_world_report.log"
echo "Report: $runs/toy_world_report/report.html"
