# SPDX-License-Identifier: Apache-2.0
"""The RL job on the tiny world: what it trains, saves and reports."""

from __future__ import annotations

import pytest

from rlaif_jax.api import reward_loading
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import jsonl
from rlaif_jax.data import datasets
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh
from rlaif_jax.engine import optimizer
from rlaif_jax.evaluation import run_files
from rlaif_jax.jobs import train_policy
from rlaif_jax.model_io import pretrained
from rlaif_jax.rl import algorithms
from tests import testing
from tests import tiny_world as tiny


def train(world, directory, **changes):
  settings = dict(
    output_dir=str(directory),
    policy_dir=str(world / "sft" / "model"),
    prompts=datasets.PromptData(
      examples_file=str(world / "examples.jsonl"), validation_rows=4
    ),
    scorer=reward_loading.ScorerConfig(
      labeler_dir=str(world / "sft" / "model"),
      rating_template="docstring_rating",
    ),
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
    assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_one_copy_of_the_start_is_held_while_training(
  world, tmp_path, monkeypatch
):
  """SFT (reference and labeler each), policy, value, and their moments."""
  most = testing.copies_while_training(
    monkeypatch, lambda: train(world, tmp_path), tiny.TABLE
  )
  assert most == 2 + 2 * 3
