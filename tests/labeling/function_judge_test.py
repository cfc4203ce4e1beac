# SPDX-License-Identifier: Apache-2.0
"""A function as the judge of pairs."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import function_judge
from rlaif_jax.labeling import judges

PAIRS = [
  records.Pair(id=str(i), context="c", first="a" * i, second="aa")
  for i in range(4)
]


def shorter(pairs, backend):
  del backend
  return [[1.0, 1.0, None, 1.5][len(p.first)] for p in pairs]


def too_few(pairs, backend):
  del pairs, backend
  return [0.5]


def test_values_become_labels_and_others_are_quarantined():
  judge = function_judge.FunctionJudgeConfig(function=shorter)
  quarantine = jsonl.Quarantine()
  labels, usage = judges.judge_pairs(PAIRS, None, judge, quarantine=quarantine)
  assert [(x.id, x.p_first) for x in labels] == [("0", 1.0), ("1", 1.0)]
  assert labels[0].labeler == f"{__name__}.shorter"
  assert usage == records.Usage() and sum(quarantine.counts().values()) == 2
  with pytest.raises(ValueError, match="returned None, not a probability"):
    judges.judge_pairs(PAIRS, None, judge)


def test_the_number_of_values_is_checked():
  judge = function_judge.FunctionJudgeConfig(function=too_few)
  with pytest.raises(ValueError, match="1 values for 4 pairs"):
    judges.judge_pairs(PAIRS, None, judge)


def test_another_function_has_another_fingerprint():
  found = {
    function_judge.FunctionJudgeConfig(function=f).fingerprint(name)
    for f in (shorter, too_few)
    for name in ("", "x")
  }
  assert len(found) == 4
