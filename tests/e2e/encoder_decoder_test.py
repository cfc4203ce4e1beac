# SPDX-License-Identifier: Apache-2.0
"""Every job that touches a model runs with an encoder-decoder.

The decoder-only twin of this pipeline is resume_test.py, on the command line.
"""

from __future__ import annotations

import dataclasses
import math

import pytest

from rlaif_jax.api import candidates
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.data import datasets
from rlaif_jax.data import preferences
from rlaif_jax.engine import decode
from rlaif_jax.engine import loop
from rlaif_jax.engine import optimizer
from rlaif_jax.jobs import label_pairs
from rlaif_jax.jobs import measure_perplexity
from rlaif_jax.jobs import sample_responses
from rlaif_jax.api import labelers
from rlaif_jax.api import reward_loading
from rlaif_jax.api import reward_parts
from rlaif_jax.jobs import train_policy
from rlaif_jax.jobs import train_reward
from rlaif_jax.jobs import train_sft
from rlaif_jax.labeling import pair_source
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.models import lora
from rlaif_jax.rl import algorithms
from tests import tiny_world as tiny

ADAM = optimizer.OptimizerConfig(name="adamw", learning_rate=1e-2)
TRAIN = loop.TrainConfig(num_steps=2, batch_size=8, save_every=2)
SAMPLING = decode.SamplingConfig(max_tokens=8, temperature=0.9)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """SFT, two samples a context, AI labels: where the other jobs begin."""
  root = tmp_path_factory.mktemp("t5")
  tiny.write_corpus(root / "examples.jsonl", root / "tokenizer.model")
  train_sft.run(
    output_dir=str(root / "sft"),
    data=datasets.SFTData(
      data_dir=str(root),
      examples_file=str(root / "examples.jsonl"),
      validation_rows=4,
      sequence=converters.SequenceConfig(max_context=24, max_response=8),
    ),
    optimizer=ADAM,
    train=TRAIN,
    model=tiny.T5,
  )
  sample_responses.run(
    output_dir=str(root / "pairs"),
    policy_dir=str(root / "sft" / "model"),
    reference_dir=str(root / "sft" / "model"),
    sampling=SAMPLING,
    examples=datasets.ExampleSource(examples_file=str(root / "examples.jsonl")),
    batch_size=8,
  )
  label_pairs.run(
    output_dir=str(root / "labels"),
    pairs=pair_source.PairSource(
      pairs_file=str(root / "pairs" / "pairs.jsonl")
    ),
    labeler=labelers.LabelerConfig(labeler_dir=str(root / "sft" / "model")),
    judge=pairwise_judge.PairwiseJudgeConfig(
      template="docstring_pairwise", max_context_tokens=120
    ),
  )
  return root


def test_labels_are_soft_and_of_both_orders(runs):
  labels = jsonl.read_records(
    records.Preference, runs / "labels" / "labels.jsonl"
  )
  assert len(labels) == 24
  assert all(len(label.p_orders) == 2 for label in labels)
  assert any(0 < label.p_first < 1 for label in labels)


def test_a_policy_has_no_kl_to_itself(runs):
  rows = jsonl.read_records(
    records.Response, runs / "pairs" / "responses.jsonl"
  )
  for row in rows:
    assert row.log_prob == pytest.approx(row.ref_log_prob, abs=1e-3)


def policy(runs, directory, scorer):
  return train_policy.run(
    output_dir=str(directory),
    policy_dir=str(runs / "sft" / "model"),
    prompts=datasets.PromptData(
      examples_file=str(runs / "examples.jsonl"), validation_rows=8
    ),
    reward=reward_parts.RewardConfig(scorer=scorer),
    rl=algorithms.RLConfig(sampling=SAMPLING),
    optimizers=optimizer.PolicyOptimizers(policy=ADAM, value=ADAM),
    train=dataclasses.replace(TRAIN, evaluate_every=2),
    selection=candidates.SelectionConfig(candidates=1),
  )


def test_reward_model_and_reinforce(runs, tmp_path):
  result = train_reward.run(
    output_dir=str(tmp_path / "reward"),
    labels=preferences.LabelsConfig(
      labels_file=str(runs / "labels" / "labels.jsonl"),
      test_labels_file=str(runs / "labels" / "labels.jsonl"),
    ),
    init_from=str(runs / "sft" / "model"),
    optimizer=ADAM,
    train=loop.TrainConfig(epochs=1.0, batch_size=8),
  )
  assert 0 <= result["accuracy"] <= 1 and result["n"] == 24
  scorer = reward_loading.ScorerConfig(
    reward_dir=str(tmp_path / "reward" / "model")
  )
  assert policy(runs, tmp_path / "rlaif", scorer)["selected_step"] == 2


def test_direct_rlaif(runs, tmp_path):
  scorer = reward_loading.ScorerConfig(
    labeler_dir=str(runs / "sft" / "model"), rating_template="docstring_rating"
  )
  assert policy(runs, tmp_path / "drlaif", scorer)["selected_step"] == 2


def test_perplexity_of_responses(runs, tmp_path):
  settings = dict(
    output_dir=str(tmp_path),
    model_dir=str(runs / "sft" / "model"),
    examples=datasets.ExampleSource(examples_file=str(runs / "examples.jsonl")),
  )
  result = measure_perplexity.run(**settings, target="response")
  assert 1 < result["perplexity"] < math.exp(10)
  with pytest.raises(ValueError, match="target=response"):
    measure_perplexity.run(**settings, target="text")


def test_adapters(runs, tmp_path):
  result = train_sft.run(
    output_dir=str(tmp_path),
    data=datasets.SFTData(
      data_dir=str(runs),
      examples_file=str(runs / "examples.jsonl"),
      validation_rows=4,
    ),
    init_from=str(runs / "sft" / "model"),
    optimizer=dataclasses.replace(ADAM, lora=lora.LoraConfig(rank=2)),
    train=TRAIN,
  )
  assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
  assert math.isfinite(result["validation_response_nll"])
