#!/usr/bin/env bash
# Runs all experiments in the toy world and writes one report.
#
#   bash launch/toy_world.sh [DIRECTORY]
#
# DIRECTORY (default: runs) gets a folder for each recipe toy_*.gin, and
# report/ with report.html and tables.md. A second start resumes. It takes
# about half an hour on one core. RLAIF_VENV names another environment.
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
rlaif_runs "$runs"

for recipe in gin_configs/recipes/toy_*.gin; do
  name=$(basename "$recipe" .gin)
  echo "== $name"
  python -m rlaif_jax.main --job=toy_world --gin_file="$recipe" \
    --output_dir="$runs/$name" >"$runs/$name.log"
done
python -m rlaif_jax.main --job=report --runs_dir="$runs" \
  --title="Toy worlds" --output_dir="$runs/report" >"$runs/report.log"
echo "Report: $runs/report/report.html"
