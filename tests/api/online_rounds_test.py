# SPDX-License-Identifier: Apache-2.0
"""Rounds of online DPO: bad options, contexts, and parts of the samples."""

from __future__ import annotations

import pytest

from rlaif_jax.api import online_rounds
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import decode

SAMPLING = decode.SamplingConfig(max_tokens=8)


def config(**changes):
  return online_rounds.RoundsConfig(**{"sampling": SAMPLING, **changes})


@pytest.mark.parametrize(
  "changes, word",
  [
    (dict(reference=""), "initial"),
    (dict(choose="best"), "max_min"),
    (dict(num_samples=1), "num_samples"),
    (dict(low_temperature=-1.0), "low_temperature"),
  ],
)
def test_bad_options_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    config(**changes)


def test_samples_that_are_cut_short_are_an_error(world):
  model = str(world / "sft" / "model")
  online_rounds.check_lengths(model, SAMPLING)
  with pytest.raises(ValueError, match="max_response 8"):
    online_rounds.check_lengths(model, decode.SamplingConfig(max_tokens=7))


def test_half_of_the_samples_have_the_low_temperature():
  parts = config(num_samples=5, low_temperature=0.3).parts()
  assert {name: count for name, (count, _) in parts.items()} == {
    "warm": 3,
    "cool": 2,
  }
  assert parts["warm"][1] == SAMPLING
  assert parts["cool"][1].temperature == 0.3
  off = config(num_samples=5, low_temperature=0.0).parts()
  assert off == {"warm": (5, SAMPLING)}
  seeds = {
    online_rounds.sample_seed(0, "run", part, number)
    for part in parts
    for number in (1, 2)
  }
  assert len(seeds) == 4


def test_rounds_take_new_contexts_until_all_are_used(tmp_path):
  examples = [
    records.Example(id=str(i), context="c", response="r") for i in range(6)
  ]
  seen = []
  for number in (1, 2, 3):
    path = tmp_path / f"{number}.jsonl"
    online_rounds.write_contexts(
      path, examples, config(contexts=4), seed=0, name="run", number=number
    )
    seen.append([row.id for row in jsonl.read_records(records.Example, path)])
  assert set(seen[0]) | set(seen[1]) == set("012345")
  assert all(len(set(ids)) == len(ids) for ids in seen), "no context twice"
  assert len(seen[0]) == 4
