# SPDX-License-Identifier: Apache-2.0
"""A judge is trained on human labels and then labels like any other."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from rlaif_jax.api import labelers
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.data import datasets
from rlaif_jax.data import preferences
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import mesh
from rlaif_jax.engine import optimizer
from rlaif_jax.engine import scoring
from rlaif_jax.jobs import label_pairs
from rlaif_jax.jobs import train_dpo
from rlaif_jax.jobs import train_sft
from rlaif_jax.jobs import write_judge_data
from rlaif_jax.labeling import pair_source
from rlaif_jax.model_io import pretrained
from tests import testing
from tests import tiny_judge
from tests import tiny_world as tiny

MODEL = dataclasses.replace(
  tiny.MODEL, num_layers=2, width=32, num_heads=4, num_kv_heads=4, mlp_dim=64
)


def write(world, directory, labels_file, **changes):
  settings = {
    "output_dir": str(directory / "data"),
    "labels_file": labels_file,
    "judge": tiny_judge.config(directory),
    "judge_dir": str(world / "sft" / "model"),
  }
  return write_judge_data.run(**settings | changes)


def train(world, directory, examples, *, num_steps):
  """Trains a judge that reads whole prompts as they are."""
  return train_sft.run(
    output_dir=str(directory / "judge"),
    data=datasets.SFTData(
      data_dir=str(world),
      examples_file=examples,
      validation_rows=4,
      sequence=converters.SequenceConfig(max_context=64, max_response=24),
    ),
    model=MODEL,
    optimizer=tiny.ADAM,
    train=tiny.train_config(batch_size=32, num_steps=num_steps),
  )["model"]


def label(directory, model, labels_file, judge, out="labels"):
  return label_pairs.run(
    output_dir=str(directory / out),
    pairs=pair_source.PairSource(pairs_file=labels_file),
    judge=judge,
    labeler=labelers.LabelerConfig(labeler_dir=model),
    human_labels_file=labels_file,
  )


@testing.AT_NIGHT
def test_a_judge_learns_the_task_and_not_from_random_labels(world, tmp_path):
  """GenRM: the fresh pairs have the texts of the task in other pairs."""
  found = {}
  test = tiny_judge.write(tmp_path, 48, seed=1)
  for name in ("real", "random"):
    directory = tmp_path / name
    directory.mkdir()
    rows = tiny_judge.labels(256)
    if name == "random":
      flips = np.random.default_rng(2).integers(0, 2, len(rows))
      rows = [
        dataclasses.replace(row, p_first=float(flip))
        for row, flip in zip(rows, flips, strict=True)
      ]
    jsonl.write_records(directory / "labels.jsonl", rows)
    data = write(world, directory, str(directory / "labels.jsonl"))
    assert data["num_examples"] == data["prompts"] == 512
    assert data["max_response"] == 2 and data["max_context"] < 64
    model = train(world, directory, data["examples"], num_steps=120)
    judge = tiny_judge.config(directory)
    found[name] = label(directory, model, test, judge)
  assert found["real"]["alignment"]["accuracy"]["value"] > 0.95
  assert found["real"]["position_bias"]["consistent"]["value"] > 0.9
  assert found["random"]["alignment"]["accuracy"]["value"] < 0.8


def test_training_and_labelling_read_the_same_tokens(world, tmp_path):
  """The loss of an example is -log P(option) as the label job reads it."""
  data = write(world, tmp_path, tiny_judge.write(tmp_path, 4))
  rows = jsonl.read_records(records.Example, data["examples"])
  model = pretrained.load(
    str(world / "sft" / "model"),
    "language",
    mesh.make_mesh("data:-1", jax.devices()[:1]),
  )
  sequence = converters.SequenceConfig(max_context=64, max_response=4)
  prompts, _ = converters.encode_prompts(
    [row.context for row in rows], model.tokenizer, sequence
  )
  response, mask, _ = converters.encode_responses(
    [row.response for row in rows], model.tokenizer, 4
  )
  trained = scoring.response_log_probs(
    model.functions,
    model.params,
    converters.token_batch(prompts, response, mask),
  )[:, 0]
  asked, _ = model.backend().score_options(
    [row.context for row in rows], ("1", "2")
  )
  read = [
    log_probs[int(row.response) - 1]
    for row, log_probs in zip(rows, asked, strict=True)
  ]
  np.testing.assert_allclose(trained, read, atol=1e-4)
  assert len({round(float(value), 3) for value in read}) > 4


def test_a_round_of_star(world, tmp_path):
  """Rationales of a judge, its right and wrong chains, SFT and DPO on them."""
  labels_file = tiny_judge.write(tmp_path, 8)
  judge = tiny_judge.config(
    tmp_path,
    chain_of_thought=True,
    num_samples=4,
    temperature=1.0,
    max_rationale_tokens=6,
  )
  start = str(world / "sft" / "model")
  judged = label(tmp_path, start, labels_file, judge)
  curve = judged["self_consistency"]
  assert [row["rationales"] for row in curve] == [1, 2, 4]
  rows = jsonl.read_records(records.Preference, judged["labels"])
  assert all(len(row.p_rationales) == 8 for row in rows)
  for row in rows:  # The mean over all judgments is the label.
    assert np.mean(row.p_rationales) == pytest.approx(row.p_first, abs=1e-9)
  data = write(
    world, tmp_path, labels_file, judge=judge, judged_file=judged["labels"]
  )
  assert data["right_chains"] + data["wrong_chains"] == 64
  assert data["num_pairs"] > 0
  model = train(world, tmp_path, data["examples"], num_steps=2)
  result = train_dpo.run(
    output_dir=str(tmp_path / "dpo"),
    labels=preferences.LabelsConfig(labels_file=data["pairs"]),
    policy_dir=model,
    dpo=dpo_model.DPOConfig(beta=1.0),
    optimizer=optimizer.OptimizerConfig(name="adamw", learning_rate=1e-3),
    train=tiny.train_config(num_steps=2, batch_size=2),
  )
  again = label(tmp_path, result["model"], labels_file, judge, out="again")
  assert again["answered"] + again["quarantined"] == 8
  assert again["labeler"] != judged["labeler"]


def test_parts_are_disjoint_and_cover_all_pairs(world, tmp_path):
  labels_file = tiny_judge.write(tmp_path, 30)
  found = []
  for k in range(3):
    data = write(world, tmp_path, labels_file, part=f"{k}/3")
    rows = jsonl.read_records(records.Example, data["examples"])
    found.append({row.id.rpartition("/")[0] for row in rows})
  assert sum(map(len, found)) == len(set.union(*found)) == 30
  assert min(map(len, found)) > 3


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"judged_file": "x"}, "set both or neither"),
    ({"max_per_prompt": 0}, "it is 1 or more"),
  ],
)
def test_settings_that_do_not_fit(world, tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    write(world, tmp_path, "labels.jsonl", **changes)


def test_chains_need_both_orders_and_no_chat_template(world, tmp_path):
  cot = {"chain_of_thought": True}
  one = tiny_judge.config(tmp_path, orders="first", **cot)
  with pytest.raises(ValueError, match="use orders = 'both'"):
    write(world, tmp_path, "labels.jsonl", judge=one, judged_file="x")
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  model = pretrained.load(str(world / "sft" / "model"), "language", devices)
  dataclasses.replace(model, chat=("<user>\n", "\n<model>\n")).save(
    str(tmp_path / "talks")
  )
  with pytest.raises(ValueError, match="has a chat template"):
    write(
      world,
      tmp_path,
      "labels.jsonl",
      judge=tiny_judge.config(tmp_path, **cot),
      judged_file="x",
      judge_dir=str(tmp_path / "talks"),
    )


def test_chains_that_are_all_wrong_say_what_to_do(world, tmp_path):
  labels_file = tiny_judge.write(tmp_path, 4)
  judge = tiny_judge.config(tmp_path, chain_of_thought=True)
  wrong = [
    dataclasses.replace(
      row,
      rationales=("why", "why"),
      p_rationales=(1 - row.p_first, 1 - row.p_first),
    )
    for row in tiny_judge.labels(4)
  ]
  jsonl.write_records(tmp_path / "judged.jsonl", wrong)
  settings = {"judge": judge, "judged_file": str(tmp_path / "judged.jsonl")}
  with pytest.raises(ValueError, match="4 labels .*sample more rationales"):
    write(world, tmp_path, labels_file, **settings)
