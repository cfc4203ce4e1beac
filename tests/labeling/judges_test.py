# SPDX-License-Identifier: Apache-2.0
"""Every kind of judge of pairs is called by the type of its config."""

from __future__ import annotations

import typing

import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import judges
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.labeling import pairwise_judge
from tests import testing

PAIRS = [
  records.Pair(id=f"p{i}", context=f"doc {i}", first="a", second="bbb")
  for i in range(3)
]


def test_every_kind_of_judge_has_its_module():
  assert set(judges.MODULES) == set(typing.get_args(judges.Judge))
  for module in judges.MODULES.values():
    assert callable(module.judge_pairs) and callable(module.expected_usage)


def test_pairs_are_labelled_in_memory():
  backend = testing.ScriptedBackend(lambda prompt, option: -float(option))
  config = pairwise_judge.PairwiseJudgeConfig(orders="first")
  labels, usage = judges.judge_pairs(PAIRS, backend, config)
  assert [label.id for label in labels] == ["p0", "p1", "p2"]
  assert all(label.p_first > 0.5 for label in labels) and usage.requests == 3
  expected = pairwise_judge.judge_pairs(PAIRS, backend, config)
  assert (labels, usage) == expected


class Likelihoods:
  name = "likelihoods"

  def log_likelihoods(self, prompts, texts):
    found = [(-float(len(text)), len(text)) for text in texts]
    return found, records.Usage(requests=len(texts))


@pytest.mark.parametrize("tokenizer", [None, testing.CharTokenizer()])
def test_likelihoods_need_no_tokenizer(tokenizer):
  config = likelihood_judge.LikelihoodJudgeConfig(score="log_prob")
  labels, usage = judges.judge_pairs(
    PAIRS, Likelihoods(), config, tokenizer=tokenizer
  )
  assert all(label.p_first > 0.5 for label in labels) and usage.requests == 6


def test_the_expected_usage_is_that_of_the_module():
  tokenizer = testing.CharTokenizer()
  for config, module in (
    (pairwise_judge.PairwiseJudgeConfig(), pairwise_judge),
    (likelihood_judge.LikelihoodJudgeConfig(), likelihood_judge),
  ):
    found = judges.expected_usage(PAIRS[0], config, tokenizer)
    assert found == module.expected_usage(PAIRS[0], config, tokenizer)
    assert found[0].requests > 0
