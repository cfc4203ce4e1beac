# SPDX-License-Identifier: Apache-2.0
"""Pairs are labelled in memory, by a model or by any backend."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from rlaif_jax.api import labels
from rlaif_jax.api import loading
from rlaif_jax.core import records
from tests import testing

PAIRS = [
  records.Pair(context="the cat sat", first="cat", second="a red hat"),
  records.Pair(context="one red hat", first="dogs", second="hat"),
]


def test_swapped_pairs_get_the_opposite_label(world):
  judge = labels.PairwiseJudge(
    loading.load(world / "sft"), template="docstring_pairwise"
  )
  found = labels.label(PAIRS, judge)
  assert [(x.first, x.second) for x in found] == [
    (x.first, x.second) for x in PAIRS
  ]
  swapped = [
    records.Pair(context=p.context, first=p.second, second=p.first)
    for p in PAIRS
  ]
  for label, other in zip(found, labels.label(swapped, judge), strict=True):
    assert 0 < label.p_first < 1 and label.p_first == 1 - other.p_first
  assert len({label.p_first for label in found}) == 2


def test_options_reach_the_judge(world):
  model = loading.load(world / "sft")
  judge = labels.PairwiseJudge(
    model, template="docstring_pairwise", orders="first"
  )
  assert judge.config.max_context_tokens == model.config.max_length - 8
  assert [len(x.p_orders) for x in labels.label(PAIRS, judge)] == [1, 1]
  with pytest.raises(ValueError, match="orders"):
    labels.PairwiseJudge(model, orders="last")


def test_any_backend_is_a_labeler():
  backend = testing.ScriptedBackend(lambda prompt, option: -float(option))
  found = labels.label(PAIRS, labels.PairwiseJudge(backend))
  # It prefers the response shown first in both orders.
  assert [label.p_first for label in found] == [0.5, 0.5]


def test_labels_name_the_model_by_its_content(world):
  model = loading.load(world / "sft")
  params = jax.tree.map(lambda x: x * 1.5, model.params)
  trained = dataclasses.replace(model, params=params)
  names = []
  for labeler in (model, trained):
    judge = labels.PairwiseJudge(labeler, template="docstring_pairwise")
    names += [label.labeler for label in labels.label(PAIRS, judge)]
  assert names[0] == names[1] == f"sft@{model.content_hash}"
  assert names[2] == names[3] == f"sft@{trained.content_hash}" != names[0]
