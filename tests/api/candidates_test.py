# SPDX-License-Identifier: Apache-2.0
"""Candidates are sampled and saved, and the best one is selected."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.api import candidates
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh
from rlaif_jax.evaluation import run_files
from rlaif_jax.model_io import pretrained
from rlaif_jax.labeling import pairwise_judge


def write(directory, step, score, text):
  rows = [
    {"id": str(i), "context": "c", "text": text, "score": score}
    for i in range(4)
  ]
  jsonl.write_text(
    directory / "validation" / f"{step:06d}.jsonl",
    "".join(jsonl.dump_row(row) + "\n" for row in rows),
  )


def test_the_highest_validation_rewards_are_the_candidates(tmp_path):
  for step, score in ((0, 9.0), (10, 0.1), (20, 0.5), (30, 0.3)):
    write(tmp_path, step, score, "x")
  table = candidates.select(
    str(tmp_path), candidates.SelectionConfig(candidates=2), None
  )
  # Step 0 is the SFT policy itself: a baseline and no candidate.
  assert [row["step"] for row in table] == [20, 30]


def test_the_labeler_judges_candidates_against_sft(world, tmp_path):
  write(tmp_path, 0, 0.0, "the cat sat")
  write(tmp_path, 5, 0.5, "the cat sat")
  write(tmp_path, 9, 0.4, "ten dogs near it")
  config = candidates.SelectionConfig(
    judge_dir=str(world / "sft" / "model"),
    judge=pairwise_judge.PairwiseJudgeConfig(
      template="docstring_pairwise", max_context_tokens=150
    ),
  )
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  table = candidates.select(str(tmp_path), config, devices)
  by_step = {row["step"]: row for row in table}
  assert by_step[5]["preference"] == 0.5  # The same text: a tie.
  assert by_step[9]["preference"] in (0.0, 1.0)
  assert by_step[9]["n"] == 4
  assert by_step[9]["judge"] == checkpoint.identity_of(config.judge_dir)


def test_validation_samples_from_the_copy_and_keeps_the_policy(world, tmp_path):
  devices = mesh.make_mesh("fsdp:2", jax.devices()[:2])
  sft = pretrained.load(str(world / "sft" / "model"), "language", devices)
  contexts = ("the cat sat", "ten dogs near it", "a bird")
  evaluate = candidates.Candidates(
    tmp_path,
    sft,
    [records.Example(id=c, context=c, response="") for c in contexts],
    lambda prompts, response, mask: mask.sum(axis=2),
    sampling=decode.SamplingConfig(max_tokens=4, temperature=1.0),
    batch_size=2,
    reshard=lambda params: jax.tree.map(jnp.zeros_like, params),
  )
  evaluate({"policy": sft.params}, 7)
  rows = run_files.validation(str(tmp_path))[7]
  for row in rows:  # A model of zeros finds all tokens equally likely.
    uniform = -row["tokens"] * np.log(sft.config.vocab_size)
    assert row["log_prob"] == pytest.approx(uniform, rel=1e-5)
    assert row["ref_log_prob"] != pytest.approx(uniform, rel=1e-2)
  assert [row["id"] for row in rows] == list(contexts)
  jax.tree.map(
    np.testing.assert_array_equal, evaluate.load(7, sft.params), sft.params
  )


def test_judge_and_its_model_go_together():
  with pytest.raises(ValueError, match="judge_dir"):
    candidates.SelectionConfig(judge_dir="somewhere")
