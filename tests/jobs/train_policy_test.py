# SPDX-License-Identifier: Apache-2.0
"""The RL job on the tiny world: what it trains, saves and reports."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.api import judge_rewards
from rlaif_jax.api import labelers
from rlaif_jax.api import reward_loading
from rlaif_jax.api import reward_parts
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import lora_config
from rlaif_jax.data import datasets
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh
from rlaif_jax.engine import optimizer
from rlaif_jax.evaluation import run_files
from rlaif_jax.interop import names
from rlaif_jax.interop import peft_files
from rlaif_jax.interop import sources
from rlaif_jax.jobs import train_policy
from rlaif_jax.model_io import pretrained
from rlaif_jax.rl import algorithms
from tests import testing
from tests import tiny_rubric
from tests import tiny_world as tiny


def rated(world, **options):
  scorer = reward_loading.ScorerConfig(
    labeler_dir=str(world / "sft" / "model"),
    rating_template="docstring_rating",
    **options,
  )
  return reward_parts.RewardConfig(scorer=scorer)


def train(world, directory, **changes):
  settings = dict(
    output_dir=str(directory),
    policy_dir=str(world / "sft" / "model"),
    prompts=datasets.PromptData(
      examples_file=str(world / "examples.jsonl"), validation_rows=4
    ),
    reward=rated(world),
    rl=algorithms.RLConfig(sampling=decode.SamplingConfig(max_tokens=8)),
    optimizers=optimizer.PolicyOptimizers(policy=tiny.ADAM, value=tiny.ADAM),
    train=tiny.train_config(num_steps=4, evaluate_every=2),
  )
  return train_policy.run(**{**settings, **changes})


def test_the_best_candidate_becomes_the_model(world, tmp_path):
  result = train(world, tmp_path)
  assert [row["step"] for row in result["candidates"]] in ([2, 4], [4, 2])
  best = result["candidates"][0]
  assert result["selected_step"] == best["step"] and result["prompts"] == 24
  table = run_files.validation(str(tmp_path))
  assert sorted(table) == [0, 2, 4] and len(table[4]) == 4
  rows = jsonl.parse_rows(tmp_path / "metrics.jsonl", dict)
  assert len(rows) == 4 and {"score", "kl"} <= set(rows[0])
  devices = mesh.make_mesh("data:-1")
  model = pretrained.load(result["model"], "language", devices)
  assert model.name == "policy"


def test_a_rubric_is_the_reward(world, tmp_path):
  rubric = judge_rewards.JudgeRewardConfig(
    judge=tiny_rubric.write(tmp_path),
    labeler=labelers.LabelerConfig(labeler_dir=str(world / "sft" / "model")),
    factor=0.5,
  )
  part = reward_parts.RewardPart(name="rubric", reward=rubric)
  reward = reward_parts.RewardConfig(parts=(part,))
  result = train(world, tmp_path / "run", reward=reward)
  assert all(0 <= row["score"] <= 0.5 for row in result["candidates"])


def test_placements_change_no_result(world, tmp_path):
  """Trap: a copy that generates, or a reference, with other parameters."""
  whole = compute_lib.Placement(rules=(("embed", ""),))
  found = []
  for name, placement in (
    ("plain", compute_lib.PlacementConfig()),
    (
      "placed",
      compute_lib.PlacementConfig(
        policy=whole, value=whole, reference=whole, rollout=compute_lib.PLAIN
      ),
    ),
  ):
    compute = compute_lib.ComputeConfig(mesh="fsdp:-1", placement=placement)
    train(world, tmp_path / name, compute=compute)
    found.append(jsonl.parse_rows(tmp_path / name / "metrics.jsonl", dict))
  for one, other in zip(*found, strict=True):
    # The copy that samples is the policy, and metrics show it.
    shown = {name for name in other if name.startswith("mismatch")}
    assert len(shown) == 4 and shown.isdisjoint(one)
    assert other["mismatch_largest"] < 1e-4 and not other["mismatch_share"]
    other = {name: other[name] for name in one}
    assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_one_copy_of_the_start_is_held_while_training(
  world, tmp_path, monkeypatch
):
  """SFT (reference and labeler in one), policy, value, and their moments."""
  most = testing.copies_while_training(
    monkeypatch, lambda: train(world, tmp_path), tiny.TABLE
  )
  assert most == 1 + 2 * 3


ADAPTERS = optimizer.OptimizerConfig(
  name="adamw",
  learning_rate=1e-2,
  lora=lora_config.LoraConfig(rank=2, targets=(r".*/(query|value)/kernel",)),
)


def test_adapters_hold_one_model_in_half_precision(
  world, tmp_path, monkeypatch
):
  """Policy, value, reference and labeler have one trunk, and it stays."""
  small = compute_lib.Placement(dtype="bfloat16")
  placement = compute_lib.PlacementConfig(
    policy=small, value=small, reference=small
  )
  most = testing.copies_while_training(
    monkeypatch,
    lambda: train(
      world,
      tmp_path,
      reward=rated(world, placement=small),
      optimizers=optimizer.PolicyOptimizers(policy=ADAPTERS, value=ADAPTERS),
      compute=compute_lib.ComputeConfig(placement=placement),
    ),
    tiny.TABLE,
  )
  assert most == 1
  devices = mesh.make_mesh("data:-1")
  before = pretrained.load(
    str(world / "sft" / "model"), "language", devices, small
  )
  after = pretrained.load(str(tmp_path / "model"), "language", devices)
  adapters, _ = peft_files.load(
    tmp_path / "adapter", sources.hf_rules(before.config)
  )
  assert len(adapters) == 2
  old, new = names.flatten(before.params), names.flatten(after.params)
  for path, leaf in new.items():
    assert np.array_equal(leaf, old[path]) == (path not in adapters)
  # Step 0 is the reference: adapters that are zero change no bit.
  assert rows_of(tmp_path)[0]["kl"] == pytest.approx(0.0, abs=1e-4)


def test_adapters_resume(world, tmp_path):
  """A run that stops after two updates ends as one that does not."""
  optimizers = optimizer.PolicyOptimizers(policy=ADAPTERS, value=ADAPTERS)
  train(world, tmp_path / "whole", optimizers=optimizers)
  for steps in (2, 4):
    train(
      world,
      tmp_path / "parts",
      optimizers=optimizers,
      train=tiny.train_config(num_steps=steps, evaluate_every=2, save_every=2),
    )
  assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parts")


def rows_of(directory):
  return jsonl.parse_rows(directory / "metrics.jsonl", dict)


def test_models_in_half_precision_are_not_trained(world, tmp_path):
  placement = compute_lib.PlacementConfig(
    policy=compute_lib.Placement(dtype="bfloat16")
  )
  with pytest.raises(ValueError, match="trained parameters must be float32"):
    train(
      world, tmp_path, compute=compute_lib.ComputeConfig(placement=placement)
    )


def test_several_parts_are_the_reward_and_in_the_metrics(world, tmp_path):
  """A function by import path that fails keeps the work of the steps before."""
  part = reward_parts.RewardPart
  parts = (
    part(name="rated", reward=rated(world).scorer, standardize="group"),
    part(name="tokens", function="length", weight=-0.1),
    part(name="near", function="rouge_l", clip=1.0),
    part(name="mine", function="tests.jobs.train_policy_test:mine"),
  )
  reward = reward_parts.RewardConfig(parts=parts)
  settings = {
    "reward": reward,
    "rl": algorithms.RLConfig(
      algorithm="rloo",
      samples_per_prompt=2,
      sampling=decode.SamplingConfig(max_tokens=8),
    ),
    "train": tiny.train_config(num_steps=4, evaluate_every=2),
  }
  FAILS.update(left=2)
  with pytest.raises(protocols.RewardError, match="'mine' raises OSError"):
    train(world, tmp_path / "parts", **settings)
  assert len(rows_of(tmp_path / "parts")) == 2
  FAILS.clear()
  SEEN.clear()
  train(world, tmp_path / "parts", **settings)
  # It resumes with the third step; two evaluations have eight rows each.
  assert [len(rows) for rows in SEEN] == [8, 16, 16, 8]
  train(world, tmp_path / "whole", **settings)
  rows = rows_of(tmp_path / "parts")
  assert rows == rows_of(tmp_path / "whole")
  for name in ("rated", "tokens", "near", "mine"):
    assert {f"reward/{name}", f"reward/{name}/length"} <= set(rows[0])
  assert rows[0]["reward/tokens"] == pytest.approx(rows[0]["tokens"])


FAILS, SEEN = {}, []


def mine(contexts, responses, rows):
  assert [row.context for row in rows] == contexts
  SEEN.append(rows)
  if len(rows) == 16 and FAILS:
    FAILS["left"] -= 1
    if FAILS["left"] < 0:
      raise OSError("the server is down")
  return [float(len(text)) for text in responses]
