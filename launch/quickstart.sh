#!/usr/bin/env bash
# The paper's whole pipeline on this machine's CPU, from nothing to a report.
#
#   bash launch/quickstart.sh [DIRECTORY] [SEED]
#
# DIRECTORY (default: runs) takes everything that is made; SEED (default: 0)
# is that of the models, orders, samples and raters. Killed and started again,
# it goes on where it was. With RLAIF_VENV an environment elsewhere is used.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 0
fi
runs=${1:-runs}
seed=${2:-0}

# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$PWD" "data,report"
export JAX_PLATFORMS=cpu
mkdir -p "$runs"
runs=$(cd "$runs" && pwd)
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/.jax_cache}
begin=$SECONDS

job() { # job NAME OUTPUT RECIPE [BINDINGS...]
  local name=$1 output=$2 recipe=$3
  shift 3
  echo "== $output: $name ($((SECONDS - begin)) s)"
  python -m rlaif_jax.main --job="$name" --output_dir="$runs/$output" \
    --gin_file="gin_configs/recipes/docstring_$recipe.gin" "$@" \
    >"$runs/$output.log"
}

sample() { # sample OUTPUT POLICY SPLIT [BINDINGS...]
  local output=$1 policy=$2 split=$3
  shift 3
  job sample "$output" sample --gin.sample.data_dir="$runs/data" \
    --gin.sample.policy_dir="$runs/$policy/model" \
    --gin.sample.split="$split" --gin.sample.seed="$seed" "$@"
}

reward() { # reward OUTPUT LABELS
  job train_reward "$1" reward \
    --gin.train_reward.labels_file="$runs/$2/labels.jsonl" \
    --gin.train_reward.test_labels_file="$runs/test_humans/labels.jsonl" \
    --gin.train_reward.init_from="$runs/sft/model" \
    --gin.train_reward.name="$1" --gin.train_reward.seed="$seed"
}

policy() { # policy OUTPUT RECIPE [BINDINGS...]
  local output=$1 recipe=$2
  shift 2
  job train_policy "$output" "$recipe" \
    --gin.PromptData.data_dir="$runs/data" \
    --gin.train_policy.policy_dir="$runs/sft/model" \
    --gin.train_policy.name="$output" --gin.train_policy.seed="$seed" \
    --gin.SelectionConfig.judge_dir="$runs/labeler/model" \
    --gin.ScorerConfig.standardize_file="$runs/pairs/responses.jsonl" "$@"
  sample "test_$output" "$output" test --gin.sample.num_samples=1 \
    --gin.sample.reference_dir="$runs/sft/model"
}

# 1. Data, and the supervised policy.
job prepare data prepare
job train_sft sft sft --gin.SFTData.data_dir="$runs/data" \
  --gin.train_sft.seed="$seed"

# 2. The labeler: a small model that learns to follow judge prompts, on
#    documents that nothing else uses.
sample labeler_pairs sft labeler --gin.sample.num_samples=4 \
  --gin.sample.human_pairs=True
job label instructions instructions \
  --pairs_file="$runs/labeler_pairs/pairs.jsonl" \
  --gin.InstructionConfig.data_dir="$runs/data" \
  --gin.HumanConfig.seed="$seed"
job train_sft labeler labeler --gin.SFTData.data_dir="$runs/data" \
  --gin.SFTData.examples_file="$runs/instructions/instructions.jsonl" \
  --gin.train_sft.init_from="$runs/sft/model" --gin.train_sft.seed="$seed"

# 3. Pairs, and their labels by humans and by the labeler.
sample pairs sft preference --gin.sample.num_samples=2 \
  --gin.sample.human_pairs=True
sample test_pairs sft test --gin.sample.num_samples=2
sample test_sft sft test --gin.sample.num_samples=1 \
  --gin.sample.reference_dir="$runs/sft/model"
job label humans humans --pairs_file="$runs/pairs/pairs.jsonl" \
  --gin.HumanConfig.seed="$seed"
job label test_humans humans \
  --pairs_file="$runs/test_pairs/pairs.jsonl" \
  --gin.HumanConfig.seed="$seed"
job label labels label --pairs_file="$runs/pairs/pairs.jsonl" \
  --labeler_dir="$runs/labeler/model" \
  --gin.label.human_labels_file="$runs/humans/labels.jsonl"

# 4. Reward models and policies. The two branches share nothing, so each gets
#    a core.
rlaif() {
  reward reward_ai labels
  policy rlaif rlaif --gin.ScorerConfig.reward_dir="$runs/reward_ai/model"
}
rlhf() {
  reward reward_human humans
  policy rlhf rlaif --gin.ScorerConfig.reward_dir="$runs/reward_human/model"
}
drlaif() {
  policy drlaif drlaif --gin.ScorerConfig.labeler_dir="$runs/labeler/model"
}
rlaif &
first=$!
rlhf &
second=$!
wait "$first"
wait "$second"
drlaif

# 5. Gold judges all; the labeler judges nothing here.
job evaluate report evaluate --gin.evaluate.runs_dir="$runs" \
  --gin.ExampleSource.data_dir="$runs/data"
echo "Done in $((SECONDS - begin)) s after installation."
echo "Report: $runs/report/report.html"
