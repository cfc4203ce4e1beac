# SPDX-License-Identifier: Apache-2.0
"""Every job, killed with SIGKILL and started again, ends with the same bytes.

Real processes on a tiny world: the command line, gin, data, all jobs.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.text import tokenizers

ROOT = pathlib.Path(__file__).parents[2]
WORDS = "the cat sat on a mat and saw one red hat with ten dogs near it".split()

TINY = """
DecoderConfig.vocab_size = 320
DecoderConfig.width = 16
DecoderConfig.num_layers = 1
DecoderConfig.num_heads = 2
DecoderConfig.num_kv_heads = 2
DecoderConfig.head_dim = 8
DecoderConfig.mlp_dim = 16
DecoderConfig.max_length = 160
SequenceConfig.max_context = 24
SequenceConfig.max_response = 8
SequenceConfig.suffix = "\\n"
"""
LOOP = """
LoopConfig.num_steps = 8
LoopConfig.save_every = 2
"""
ADAM = """
OptimizerConfig.name = "adamw"
OptimizerConfig.learning_rate = 1e-2
"""
SFT = (
  TINY
  + LOOP
  + ADAM
  + """
train_sft.data = @SFTData()
train_sft.model = @DecoderConfig()
train_sft.sequence = @SequenceConfig()
train_sft.optimizer = @OptimizerConfig()
train_sft.train = @LoopConfig()
train_sft.batch_size = 4
SFTData.validation_rows = 4
"""
)
SAMPLE = """
sample.sampling = @SamplingConfig()
sample.num_samples = 2
sample.batch_size = 4
SamplingConfig.max_tokens = 8
"""
HUMANS = """
label.humans = @HumanConfig()
HumanConfig.temperature = 0.1
"""
LABEL = """
label.judge = @JudgeConfig()
label.chunk_size = 4
JudgeConfig.template = "docstring_pairwise"
JudgeConfig.max_context_tokens = 120
"""
REWARD = (
  ADAM
  + """
train_reward.optimizer = @OptimizerConfig()
train_reward.epochs = 2.0
train_reward.batch_size = 4
train_reward.save_every = 2
train_reward.label_counts = (8,)
"""
)
DPO = (
  ADAM
  + """
train_dpo.dpo = @DPOConfig()
train_dpo.optimizer = @OptimizerConfig()
train_dpo.epochs = 2.0
train_dpo.batch_size = 4
train_dpo.save_every = 2
"""
)
POLICY = (
  LOOP
  + ADAM
  + """
train_policy.prompts = @PromptData()
train_policy.scorer = @ScorerConfig()
train_policy.rl = @RLConfig()
train_policy.sampling = @SamplingConfig()
train_policy.optimizer = @OptimizerConfig()
train_policy.value_optimizer = @OptimizerConfig()
train_policy.train = @LoopConfig()
train_policy.selection = @SelectionConfig()
train_policy.batch_size = 4
SelectionConfig.candidates = 2
LoopConfig.evaluate_every = 4
PromptData.validation_rows = 4
SamplingConfig.max_tokens = 8
"""
)


class World:
  """A directory with data, recipes and the runs so far."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    generator = random.Random(0)
    examples = []
    for i in range(24):
      words = generator.choices(WORDS, k=18)
      examples.append(
        records.Example(
          id=f"{i:03d}", context=" ".join(words), response=" ".join(words[:4])
        )
      )
    jsonl.write_records(root / "examples.jsonl", examples)
    tokenizers.train_sentencepiece(
      [e.context for e in examples] * 4 + ["Which line sums up the text 1 2 3"],
      vocab_size=320,
      path=root / "data" / "tokenizer.model",
    )

  def command(self, job: str, run: str, recipe: str, **bindings: str):
    path = self.root / f"{run}.gin"
    path.write_text(recipe)
    extra = [f"--gin.{k.replace('__', '.')}={v}" for k, v in bindings.items()]
    return [
      sys.executable,
      "-m",
      "rlaif_jax.main",
      f"--job={job}",
      f"--gin_file={path}",
      f"--output_dir={self.root / run}",
      *extra,
    ]

  def start(self, command) -> subprocess.Popen:
    environment = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "",
      "JAX_COMPILATION_CACHE_DIR": str(self.root / "cache"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
      command,
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def finish(self, command) -> str:
    process = self.start(command)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output

  def kill(self, command, watched: str, lines: int) -> None:
    """Kills the process once a file has that many lines."""
    process = self.start(command)
    path = self.root / watched
    begin = time.monotonic()
    while process.poll() is None and time.monotonic() - begin < 240:
      if path.exists() and path.read_bytes().count(b"\n") >= lines:
        process.send_signal(signal.SIGKILL)
        break
      time.sleep(0.005)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before the kill"

  def contents(self, run: str) -> dict[str, str]:
    """What must be the same: files by name, and the model's hash."""
    result = {}
    for path in sorted((self.root / run).rglob("*")):
      name = str(path.relative_to(self.root / run))
      if path.name == "model.json":
        result[name] = path.read_text()
      elif path.suffix == ".jsonl" and "partial" not in name:
        result[name] = path.read_text()
    summary = json.loads((self.root / run / "result.json").read_text())
    result["result"] = json.dumps(
      {
        k: v
        for k, v in summary.items()
        if k not in ("seconds", "next", "model", "labels")
      },
      sort_keys=True,
    )
    return result


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  return World(tmp_path_factory.mktemp("world"))


def stages(world):
  """(job, recipe, bindings, watched file, lines at which it is killed)."""
  return {**text_stages(world.root), **training_stages(world.root)}


def text_stages(root):
  return {
    "sft": (
      "train_sft",
      SFT,
      {
        "SFTData__data_dir": root / "data",
        "SFTData__examples_file": root / "examples.jsonl",
      },
      "metrics.jsonl",
      (1, 5),
    ),
    "pairs": (
      "sample",
      SAMPLE,
      {
        "sample__policy_dir": root / "sft" / "model",
        "sample__examples_file": root / "examples.jsonl",
      },
      "responses.partial.jsonl",
      (2,),
    ),
    "humans": (
      "label",
      HUMANS,
      {"label__pairs_file": root / "pairs" / "pairs.jsonl"},
      None,
      (),
    ),
    "labels": (
      "label",
      LABEL,
      {
        "label__pairs_file": root / "pairs" / "pairs.jsonl",
        "label__labeler_dir": root / "sft" / "model",
        "label__human_labels_file": root / "humans" / "labels.jsonl",
      },
      "store/labels.jsonl",
      (2,),
    ),
  }


def training_stages(root):
  data = {"PromptData__examples_file": root / "examples.jsonl"}
  return {
    "reward": (
      "train_reward",
      REWARD,
      {
        "train_reward__labels_file": root / "labels" / "labels.jsonl",
        "train_reward__test_labels_file": root / "humans" / "labels.jsonl",
        "train_reward__init_from": root / "sft" / "model",
      },
      "metrics.jsonl",
      (3,),
    ),
    "dpo": (
      "train_dpo",
      DPO,
      {
        "train_dpo__labels_file": root / "labels" / "labels.jsonl",
        "train_dpo__test_labels_file": root / "humans" / "labels.jsonl",
        "train_dpo__policy_dir": root / "sft" / "model",
      },
      "metrics.jsonl",
      (3,),
    ),
    "policy": (
      "train_policy",
      POLICY,
      {
        **data,
        "train_policy__policy_dir": root / "sft" / "model",
        "ScorerConfig__reward_dir": root / "reward" / "model",
        "ScorerConfig__standardize_file": root / "pairs" / "responses.jsonl",
      },
      "metrics.jsonl",
      (1, 6),
    ),
    "direct": (
      "train_policy",
      POLICY + 'ScorerConfig.rating_template = "docstring_rating"\n',
      {
        **data,
        "train_policy__policy_dir": root / "sft" / "model",
        "ScorerConfig__labeler_dir": root / "sft" / "model",
      },
      "metrics.jsonl",
      (3,),
    ),
  }


@pytest.mark.parametrize(
  "name",
  ["sft", "pairs", "humans", "labels", "reward", "dpo", "policy", "direct"],
)
def test_killed_and_resumed_ends_the_same(world, name):
  job, recipe, bindings, watched, points = stages(world)[name]
  output = world.finish(world.command(job, name, recipe, **bindings))
  assert "next" in output
  whole = world.contents(name)
  if watched is None:
    return
  broken = f"{name}_killed"
  command = world.command(job, broken, recipe, **bindings)
  for lines in points:
    world.kill(command, f"{broken}/{watched}", lines)
  world.finish(command)
  resumed = world.contents(broken)
  assert set(whole) == set(resumed)
  for key, value in whole.items():
    assert value == resumed[key], f"{key} differs after kill and resume"


KILLS = int(os.environ.get("RLAIF_KILLS", "0"))


@pytest.mark.skipif(not KILLS, reason="RLAIF_KILLS is 0; launch/nightly.sh")
@pytest.mark.parametrize(
  "name", ["sft", "pairs", "labels", "reward", "dpo", "policy", "direct"]
)
def test_killed_at_any_moment_it_ends_the_same(world, name):
  """So often, at moments drawn over a whole run, wherever that is."""
  for needed, (job, recipe, bindings, _, _) in stages(world).items():
    if not (world.root / needed / "result.json").exists():
      world.finish(world.command(job, needed, recipe, **bindings))
    if needed == name:
      break
  draw = random.Random(name)
  begin = time.monotonic()
  world.finish(world.command(job, f"{name}_timed", recipe, **bindings))
  seconds = time.monotonic() - begin
  whole, kills, copies = world.contents(name), 0, 0
  while kills < KILLS:
    copies += 1
    run = f"{name}_any{copies}"
    command = world.command(job, run, recipe, **bindings)
    while kills < KILLS:
      process = world.start(command)
      try:
        output, _ = process.communicate(timeout=draw.uniform(0, seconds))
        assert process.returncode == 0, output
        break
      except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        kills += 1
    world.finish(command)
    assert world.contents(run) == whole


def test_sigterm_saves_and_exits_with_its_own_code(world):
  _, recipe, bindings, _, _ = stages(world)["sft"]
  recipe = recipe.replace("num_steps = 8", "num_steps = 2000")
  recipe = recipe.replace("save_every = 2", "save_every = 5000")
  command = world.command("train_sft", "stopped", recipe, **bindings)
  process = world.start(command)
  path = world.root / "stopped" / "metrics.jsonl"
  begin = time.monotonic()
  while process.poll() is None and time.monotonic() - begin < 240:
    if path.exists() and path.read_bytes().count(b"\n") >= 3:
      process.send_signal(signal.SIGTERM)
      break
    time.sleep(0.005)
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 75, output
  assert "Continue" in output or "continue" in output
  saved = [p.name for p in (world.root / "stopped/checkpoints").iterdir()]
  assert any(name.isdigit() and int(name) >= 3 for name in saved)
