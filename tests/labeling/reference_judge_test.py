# SPDX-License-Identifier: Apache-2.0
"""Responses against references: both orders, and the reference itself."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import reference_judge
from tests import testing

CONFIG = pairwise_judge.PairwiseJudgeConfig()
EXAMPLES = [
  records.Example(id=f"e/{i}", context="doc", response=text)
  for i, text in enumerate(("a good one", "the reference", "bad"))
]


def prefers_good(prompt, option):
  """The good response wins in both orders, the bad one loses in both."""
  first, second = (prompt.rfind(t) for t in ("the reference", "a good one"))
  if second < 0:
    best = "1" if first < prompt.rfind("bad") else "2"
  else:
    best = "1" if second < first else "2"
  return -0.1 if option == best else -3.0


def judge(examples=EXAMPLES, references=None, **settings):
  return reference_judge.judge_responses(
    examples,
    {"e": "the reference"} if references is None else references,
    testing.ScriptedBackend(settings.pop("log_prob", prefers_good)),
    CONFIG,
    **settings,
  )


def test_a_score_is_the_probability_to_beat_the_reference():
  ratings, usage = judge()
  assert [row.id for row in ratings] == ["e/0", "e/1", "e/2"]
  good, same, bad = (row.score for row in ratings)
  assert good > 0.9 and same == 0.5 and bad < 0.1
  assert ratings[0].probabilities == (good, 1.0 - good)
  assert ratings[0].response == "a good one"
  assert usage.requests == 4  # The reference itself is not sent.


def test_missing_references_and_failed_prompts():
  with pytest.raises(ValueError, match="no reference has the id 'e'"):
    judge(references={})
  quarantine = jsonl.Quarantine()
  ratings, _ = judge(
    log_prob=lambda prompt, option: float("nan"), quarantine=quarantine
  )
  assert [row.id for row in ratings] == ["e/1"] and len(quarantine.rows) == 2
