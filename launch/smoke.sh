#!/usr/bin/env bash
# The paper's whole pipeline in a small world on this machine's CPU.
#
#   bash launch/smoke.sh [DIRECTORY] [SEED]
#
# It shows that all parts work together, not that RLAIF pays: the policies are
# half a million parameters, and their gain is length
# (docs/experiments/smoke.md). Everything is written to DIRECTORY (default:
# runs). SEED (default: 0) seeds models, orders, samples and raters. A killed run
# resumes where it stopped. RLAIF_VENV uses another Python environment.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0"
  exit 0
fi
runs=${1:-runs}
seed=${2:-0}
task=docstring

# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$PWD" "data,report"
rlaif_runs "$runs"

policy() { # policy OUTPUT RECIPE [BINDINGS...]
  local output=$1 recipe=$2
  shift 2
  job train_policy "$output" "$recipe" --data_dir="$runs/data" \
    --policy_dir="$runs/sft/model" --name="$output" --seed="$seed" \
    --judge_dir="$runs/labeler/model" \
    --standardize_file="$runs/pairs/responses.jsonl" "$@"
  sample "test_$output" "$output" test --num_samples=1 \
    --reference_dir="$runs/sft/model"
}

# 1. Data, and the supervised policy.
job prepare data prepare
job train_sft sft sft --data_dir="$runs/data" --seed="$seed"

# 2. The labeler: a small model, trained on judge prompts of documents that no
#    other step uses.
sample labeler_pairs sft labeler --num_samples=4 --human_pairs=True
job label instructions instructions \
  --pairs_file="$runs/labeler_pairs/pairs.jsonl" \
  --data_dir="$runs/data" \
  --gin.HumanConfig.seed="$seed"
job train_sft labeler labeler --data_dir="$runs/data" \
  --examples_file="$runs/instructions/instructions.jsonl" \
  --init_from="$runs/sft/model" --seed="$seed"

# 3. Pairs, and their labels by humans and by the labeler.
sample pairs sft preference --num_samples=2 --human_pairs=True
sample test_pairs sft test --num_samples=2
sample test_sft sft test --num_samples=1 \
  --reference_dir="$runs/sft/model"
job label humans humans --pairs_file="$runs/pairs/pairs.jsonl" \
  --gin.HumanConfig.seed="$seed"
job label test_humans humans \
  --pairs_file="$runs/test_pairs/pairs.jsonl" \
  --gin.HumanConfig.seed="$seed"
job label labels label --pairs_file="$runs/pairs/pairs.jsonl" \
  --labeler_dir="$runs/labeler/model" \
  --human_labels_file="$runs/humans/labels.jsonl"

# 4. Reward models and policies. The two branches are independent and run in
#    parallel.
rlaif() {
  reward reward_ai labels test_humans
  policy rlaif rlaif --reward_dir="$runs/reward_ai/model"
}
rlhf() {
  reward reward_human humans test_humans
  policy rlhf rlaif --reward_dir="$runs/reward_human/model"
}
drlaif() {
  policy drlaif drlaif --labeler_dir="$runs/labeler/model"
}
rlaif &
first=$!
rlhf &
second=$!
wait "$first"
wait "$second"
drlaif

# 5. The gold reward judges all policies; the labeler judges none.
job evaluate report evaluate --runs_dir="$runs" \
  --data_dir="$runs/data"
echo "Done in $((SECONDS - begin)) s after installation."
echo "Report: $runs/report/report.html"
