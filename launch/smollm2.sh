#!/usr/bin/env bash
# The whole paper on a real language model: SFT, RLAIF, RLHF, d-RLAIF and best of
# n for SmolLM2-135M-Instruct on synopses of Debian packages, and one report.
#
#   bash launch/smollm2.sh [OPTIONS] [DIRECTORY] [SEED]
#
#   --size=small     384 pairs, 20 updates, 512 test documents (default)
#   --size=full      2,048 pairs, 80 updates, 1,024 test documents
#   --labeler=DIR    a larger converted model labels: asked in both orders for
#                    RLAIF, and for a score of 1 to 10 in d-RLAIF. Without it
#                    SmolLM2 itself labels, by likelihood.
#   --labeler=NAME@URL  an OpenAI-compatible endpoint labels for RLAIF
#   --dry_run        prints what would run and how long it takes
#
# Everything is written to DIRECTORY (default: runs/smollm2). SEED (default: 0)
# seeds samples, orders and raters. A killed run resumes where it stopped.
# JAX_PLATFORMS is the device (default: cpu), RLAIF_GFLOPS its speed for the dry
# run (default: 120, two cores).
set -euo pipefail
cd "$(dirname "$0")/.."

size=small labeler="" dry_run="" words=()
for word in "$@"; do
  case "$word" in
    --help)
      sed -n '2,20s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    --size=*) size=${word#*=} ;;
    --labeler=*) labeler=${word#*=} ;;
    --dry_run) dry_run=1 ;;
    --*)
      echo "error: unknown option $word; see --help" >&2
      exit 2
      ;;
    *) words+=("$word") ;;
  esac
done
runs=${words[0]:-runs/smollm2}
seed=${words[1]:-0}
task=synopsis

case "$size" in
  small) steps=40 pairs=384 held_out=192 updates=20 test=512 n=4 ;;
  full) steps=320 pairs=2048 held_out=512 updates=80 test=1024 n=16 ;;
  *)
    echo "error: --size is $size; it should be small or full" >&2
    exit 2
    ;;
esac

# A token costs 0.27 GFLOP forward, and 2.3 times that to train adapters on; a
# row has 116 tokens. RL samples, scores and trains.
awk -v gflops="${RLAIF_GFLOPS:-120}" -v steps=$steps -v pairs=$pairs \
  -v held_out=$held_out -v updates=$updates -v test=$test -v n=$n '
  function row(name, rows, factor) {
    seconds = rows * factor * 116 * 0.27 / gflops
    total += seconds
    printf "  %-42s %6d rows %6.0f min\n", name, rows, seconds / 60
  }
  BEGIN {
    row("SFT", steps * 16, 2.3)
    row("samples of SFT to compare", 2 * (pairs + held_out), 1)
    row("labels by SmolLM2", 2 * pairs, 1.2)
    row("two reward models", 4 * pairs * 1.25, 2.3)
    row("RLAIF, RLHF and d-RLAIF", 3 * updates * 32, 5.3)
    row("test samples and best of " n, test * (4 + n), 2)
    printf "  about %.1f hours at %d GFLOP/s, without compilation\n", \
      total / 3600, gflops
  }'
if [ -n "$dry_run" ]; then exit 0; fi

# shellcheck source=launch/environment.sh
source launch/environment.sh
rlaif_environment "$PWD" "data,report,models"
rlaif_runs "$runs"

gold=(
  --encoder_dir="$runs/files/encoder"
  --references_dir="$runs/data/debian_synopsis"
)

# 1. A model, a sentence encoder for the gold, texts, and the supervised policy.
python launch/fetch.py "$runs/files"
job prepare data prepare --source_dir="$runs/files/lists"
job convert smollm2 convert --source="$runs/files/smollm2.gguf"
job train_sft sft sft --data_dir="$runs/data" --seed="$seed" \
  --init_from="$runs/smollm2/model" --gin.STEPS="$steps"

# 2. Pairs of its own samples, labelled by simulated raters and by the labeler.
sample pairs sft preference --limit="$pairs" --num_samples=2
sample held_out sft validation --limit="$held_out" --num_samples=2
for name in pairs held_out; do
  job label "humans_$name" humans --pairs_file="$runs/$name/pairs.jsonl" \
    "${gold[@]}" --gin.HumanConfig.seed="$seed"
done
case "$labeler" in
  "") by=(likelihood --labeler_dir="$runs/smollm2/model") ;;
  *@*)
    by=(label --gin.LabelerConfig.endpoint="@EndpointConfig()"
      --model="${labeler%%@*}" --base_url="${labeler#*@}")
    ;;
  *) by=(label --labeler_dir="$labeler") ;;
esac
job label labels "${by[@]}" --pairs_file="$runs/pairs/pairs.jsonl" \
  --human_labels_file="$runs/humans_pairs/labels.jsonl"

# 3. Reward models on both kinds of labels.
reward reward_ai labels humans_held_out
reward reward_human humans_pairs humans_held_out

# 4. Policies.
policy() { # policy OUTPUT RECIPE [ARGUMENTS...]
  local output=$1 recipe=$2
  shift 2
  job train_policy "$output" "$recipe" --data_dir="$runs/data" \
    --policy_dir="$runs/sft/model" --name="$output" --seed="$seed" \
    --standardize_file="$runs/pairs/responses.jsonl" \
    --gin.STEPS="$updates" "$@"
}
policy rlaif rlaif --reward_dir="$runs/reward_ai/model"
policy rlhf rlaif --reward_dir="$runs/reward_human/model"
case "$labeler" in
  "" | *@*) policy drlaif drlaif --labeler_dir="$runs/smollm2/model" ;;
  *)
    policy drlaif drlaif --labeler_dir="$labeler" \
      --gin.ScorerConfig.likelihood="''" \
      --gin.ScorerConfig.rating_template="'oneline_rating'"
    ;;
esac

# 5. All of them on documents that nothing has seen, and the best of n samples of
#    SFT. The gold reward judges them; the labeler judges none.
for name in sft rlaif rlhf drlaif; do
  sample "test_$name" "$name" test --limit="$test" --num_samples=1 \
    --reference_dir="$runs/sft/model"
done
sample samples sft test --limit="$test" --num_samples="$n"
job score best best --responses_file="$runs/samples/responses.jsonl" \
  --policy_dir="$runs/sft/model" --reward_dir="$runs/reward_ai/model"
job evaluate report report --runs_dir="$runs" --data_dir="$runs/data" \
  "${gold[@]}"
echo "Done in $((SECONDS - begin)) s after installation."
echo "Report: $runs/report/report.html"
