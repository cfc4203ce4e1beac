#!/usr/bin/env bash
# What the other scripts share, which source this file: the Python environment,
# the folder of their runs, and the start of a job. RLAIF_VENV is the folder of
# the environment, RLAIF_PYTHON its interpreter. The scripts set task and seed.
task=${task:-} seed=${seed:-0}

rlaif_environment() {
  local root=$1 extras=$2 python=${RLAIF_PYTHON:-python3} venv stamp wanted
  venv=${RLAIF_VENV:-$root/.venv}
  stamp=$venv/.rlaif_$extras
  wanted=$(cksum <"$root/setup.py")
  # Also repairs an environment whose creation was interrupted before pip.
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$python is older than Python 3.11; set RLAIF_PYTHON=..." >&2
      return 1
    fi
    "$python" -m venv "$venv"
  fi
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing rlaif_jax[$extras] into $venv from the package index" \
      "(a few minutes${rlaif_size:+, $rlaif_size}) ..."
    "$venv/bin/python" -m pip install --quiet --upgrade pip
    case ,$extras, in *,data,* | *,test,*)
      # seqio requires editdistance, which has no wheel for Python 3.13; without
      # one, pip would need a compiler.
      "$venv/bin/python" -m pip install --quiet --only-binary=:all: \
        editdistance 2>/dev/null ||
        "$venv/bin/python" -m pip install --quiet "$root/launch/editdistance"
      ;;
    esac
    # Setuptools warns about every editable installation.
    PYTHONWARNINGS=ignore \
      "$venv/bin/python" -m pip install --quiet --no-compile \
        -e "${root}[$extras]"
    echo "$wanted" >"$stamp"
  fi
  PATH=$venv/bin:$PATH
  export PATH
}

# rlaif_runs DIRECTORY: makes the folder of a script's runs, where compiled
# programs are kept too. Sets runs and begin.
rlaif_runs() {
  mkdir -p "$1"
  runs=$(cd "$1" && pwd)
  begin=$SECONDS
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
  export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/.jax_cache}
}

# job NAME OUTPUT RECIPE [ARGUMENTS...]: runs a job in $runs/OUTPUT with a recipe
# of the task $task.
job() {
  local name=$1 output=$2 recipe=$3
  shift 3
  echo "== $output: $name ($((SECONDS - begin)) s)"
  python -m rlaif_jax.main --job="$name" --output_dir="$runs/$output" \
    --gin_file="gin_configs/recipes/${task}_$recipe.gin" "$@" \
    >"$runs/$output.log"
}

# sample OUTPUT POLICY SPLIT [ARGUMENTS...]: samples of $runs/POLICY/model.
sample() {
  local output=$1 policy=$2 split=$3
  shift 3
  job sample "$output" sample --data_dir="$runs/data" --split="$split" \
    --policy_dir="$runs/$policy/model" --seed="$seed" "$@"
}

# reward OUTPUT LABELS TEST_LABELS: a reward model on the labels of a run,
# measured on those of another.
reward() {
  job train_reward "$1" reward --init_from="$runs/sft/model" \
    --labels_file="$runs/$2/labels.jsonl" \
    --test_labels_file="$runs/$3/labels.jsonl" \
    --name="$1" --seed="$seed"
}
