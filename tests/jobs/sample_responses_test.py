# SPDX-License-Identifier: Apache-2.0
"""Sampling on disk: pairs without order, KL of a policy to itself."""

from __future__ import annotations

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import datasets
from rlaif_jax.engine import decode
from rlaif_jax.jobs import sample_responses


def sample(world, directory, **changes):
  settings = dict(
    output_dir=str(directory),
    policy_dir=str(world / "sft" / "model"),
    sampling=decode.SamplingConfig(max_tokens=8),
    examples=datasets.ExampleSource(
      examples_file=str(world / "examples.jsonl")
    ),
    batch_size=8,
  )
  return sample_responses.run(**{**settings, **changes})


def test_pairs_hold_the_samples_in_an_order_that_says_nothing(world, tmp_path):
  result = sample(world, tmp_path, num_samples=4, human_pairs=True)
  responses = jsonl.read_records(records.Response, tmp_path / "responses.jsonl")
  pairs = jsonl.read_records(records.Pair, tmp_path / "pairs.jsonl")
  assert result["responses"] == len(responses) == 96
  assert len(pairs) == 72 and len({p.id for p in pairs}) > 60
  texts = {(r.id, r.index): r.text for r in responses}
  first = 0
  for i, pair in enumerate(pairs[::3]):
    both = {texts[f"{i:03d}", 0], texts[f"{i:03d}", 1]}
    assert {pair.first, pair.second} == both
    first += pair.first == texts[f"{i:03d}", 0]
  assert 4 < first < 20


def test_the_batch_size_changes_nothing(world, tmp_path):
  sample(world, tmp_path / "a")
  sample(world, tmp_path / "b", batch_size=16)
  for name in ("responses.jsonl", "pairs.jsonl"):
    one, other = (
      jsonl.read_records(
        records.Pair if "pairs" in name else records.Response,
        tmp_path / run / name,
      )
      for run in "ab"
    )
    key = (lambda p: p) if "pairs" in name else (lambda r: (r.text, r.tokens))
    assert list(map(key, one)) == list(map(key, other))


def test_a_policy_has_no_kl_to_itself(world, tmp_path):
  model = str(world / "sft" / "model")
  result = sample(world, tmp_path, reference_dir=model, num_samples=1)
  assert abs(result["kl"]) < 1e-4
  rows = jsonl.read_records(records.Response, tmp_path / "responses.jsonl")
  assert np.std([row.log_prob for row in rows]) > 0
