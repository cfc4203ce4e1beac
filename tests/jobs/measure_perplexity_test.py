# SPDX-License-Identifier: Apache-2.0
"""Perplexity by hand, whatever the batch."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import datasets
from rlaif_jax.engine import mesh
from rlaif_jax.model_io import pretrained
from rlaif_jax.jobs import measure_perplexity
from tests import testing


def measure(world, directory, **changes):
  source = datasets.ExampleSource(
    examples_file=str(world / "examples.jsonl"), limit=changes.pop("limit", 0)
  )
  settings = dict(
    output_dir=str(directory),
    model_dir=str(world / "sft" / "model"),
    examples=source,
    batch_size=8,
    max_tokens=20,
  )
  return measure_perplexity.run(**{**settings, **changes})


def test_it_is_the_mean_over_tokens(world, tmp_path):
  result = measure(world, tmp_path, limit=3)
  model = pretrained.load(
    str(world / "sft" / "model"),
    "language",
    mesh.make_mesh("data:1", jax.devices()[:1]),
  )
  examples = jsonl.read_records(records.Example, world / "examples.jsonl")[:3]
  total, count = 0.0, 0
  for example in examples:
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode(example.context)]
    ids = jnp.asarray(ids[:20])[None]
    hidden = testing.all_hidden(
      model.functions, model.params, ids, jnp.ones(ids.shape, bool)
    )
    logits = model.functions.logits(model.params, hidden)
    log_probs = np.asarray(jax.nn.log_softmax(logits))[0]
    for j in range(1, ids.shape[1]):
      total -= log_probs[j - 1, ids[0, j]]
      count += 1
  assert result["tokens"] == count
  assert result["nats_per_token"]["value"] == pytest.approx(
    total / count, abs=1e-5
  )
  assert result["perplexity"] == pytest.approx(math.exp(total / count), 1e-4)
  low, high = (result["nats_per_token"][side] for side in ("low", "high"))
  assert low < total / count < high and result["nats_per_token"]["n"] == 3


def test_the_batch_size_changes_nothing(world, tmp_path):
  a = measure(world, tmp_path / "a", batch_size=8)
  b = measure(world, tmp_path / "b", batch_size=16)
  assert a["tokens"] == b["tokens"] and a["texts"] == b["texts"] == 24
  assert a["perplexity"] == pytest.approx(b["perplexity"], rel=1e-5)


def test_responses_follow_their_prompts(world, tmp_path):
  text = measure(world, tmp_path / "a", limit=4)
  response = measure(world, tmp_path / "b", limit=4, target="response")
  assert response["tokens"] < text["tokens"]
  rows = jsonl.parse_rows(tmp_path / "b" / "losses.jsonl", dict)
  assert len(rows) == 4 and all(row["nll"] > 0 for row in rows)


def test_an_unknown_target_is_named(world, tmp_path):
  with pytest.raises(ValueError, match="target is 'all'"):
    measure(world, tmp_path, target="all")


def test_a_placement_is_measured(world, tmp_path):
  plain = measure(world, tmp_path / "a", limit=4)
  half = compute_lib.Placement(dtype="bfloat16")
  low = measure(world, tmp_path / "b", limit=4, placement=half)
  assert low["perplexity"] != plain["perplexity"]
  assert low["perplexity"] == pytest.approx(plain["perplexity"], rel=0.02)
