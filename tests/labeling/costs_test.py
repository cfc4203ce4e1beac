# SPDX-License-Identifier: Apache-2.0
"""Prices, estimates against what is really asked, budgets, the paper's sum."""

from __future__ import annotations

import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import pairwise_judge
from tests import testing

# GPT-4 in September 2023, appendix L.
GPT4 = costs.Prices(input_usd_per_1k=0.03, output_usd_per_1k=0.06)


def pairs(count=5):
  return [
    records.Pair(id=f"p{i}", context="some text " * i, first="a", second="b")
    for i in range(count)
  ]


class FixedTokenizer:
  """The context alone has the paper's 830 tokens."""

  def encode(self, text):
    return range(830 if text == "CONTEXT" else 0)


def test_costs_follow_the_prices():
  usage = records.Usage(input_tokens=3000, output_tokens=500, requests=7)
  prices = costs.Prices(input_usd_per_1k=0.5, output_usd_per_1k=2.0)
  assert prices.cost_usd(usage) == pytest.approx(3 * 0.5 + 0.5 * 2.0)
  assert costs.FREE.cost_usd(usage) == 0.0
  cached = usage + records.Usage(input_tokens=1000, cached_input_tokens=1000)
  assert prices.cost_usd(cached) == pytest.approx(4 * 0.5 + 0.5 * 2.0)
  cheaper = costs.Prices(
    input_usd_per_1k=0.5, output_usd_per_1k=2.0, cached_input_usd_per_1k=0.1
  )
  assert cheaper.cost_usd(cached) == pytest.approx(3 * 0.5 + 0.1 + 1.0)
  with pytest.raises(ValueError, match="output_usd_per_1k is -1"):
    costs.Prices(output_usd_per_1k=-1)
  with pytest.raises(ValueError, match="cached_input_usd_per_1k is -2"):
    costs.Prices(cached_input_usd_per_1k=-2)


def test_the_papers_comparison_with_human_labels():
  """$0.06 for an AI label and $0.67 for a human one, over ten times as much.

  The paper counts the prompt once though its second step reads it again; with
  that the AI label costs about $0.11.
  """
  once = records.Usage(input_tokens=2 * 830, output_tokens=2 * 61)
  paper = costs.CostEstimate(pairs=1, usage=once, max_usage=once, words=304)
  assert GPT4.cost_usd(once) == pytest.approx(0.0571, abs=1e-4)
  assert paper.human_usd() == pytest.approx(0.67, abs=0.005)
  assert "11.7 times as much" in costs.describe(paper, GPT4)
  config = pairwise_judge.PairwiseJudgeConfig(chain_of_thought=True)
  row = records.Pair(id="p", context="CONTEXT", first="a", second="b")
  again, _ = pairwise_judge.expected_usage(row, config, FixedTokenizer())
  assert GPT4.cost_usd(again) == pytest.approx(0.11, abs=0.002)


@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"orders": "first"},
    {"chain_of_thought": True},
    {"chain_of_thought": True, "num_samples": 3, "temperature": 0.7},
    {"max_context_tokens": 700},
  ],
)
def test_an_estimate_counts_what_is_asked(settings):
  rationale = "x" * pairwise_judge.RATIONALE_TOKENS
  backend = testing.ScriptedBackend(lambda p, o: -1.0, lambda p, s: rationale)
  tokenizer = testing.CharTokenizer()
  config = pairwise_judge.PairwiseJudgeConfig(
    **{"template": "oneline_pairwise", "max_context_tokens": 5000} | settings
  )
  if "chain_of_thought" in settings:
    config = pairwise_judge.PairwiseJudgeConfig(
      **{"max_context_tokens": 5000} | settings
    )
  rows = pairs() + [records.Pair(id="e", context="", first="a", second="a")]
  _, paid = pairwise_judge.judge_pairs(
    rows, backend, config, tokenizer=tokenizer
  )
  found = costs.estimate(
    rows, lambda pair: pairwise_judge.expected_usage(pair, config, tokenizer)
  )
  assert found.pairs == 6 and found.words == 2 * (1 + 2 + 3 + 4) + 12
  assert found.usage.requests == paid.requests
  assert found.usage.input_tokens == pytest.approx(paid.input_tokens, rel=0.15)
  assert found.usage.output_tokens == pytest.approx(
    paid.output_tokens, rel=0.05
  )
  if "chain_of_thought" in settings:
    assert found.max_usage.output_tokens > 5 * found.usage.output_tokens
  else:
    assert found.max_usage == found.usage


def test_a_budget_stops_before_it_is_broken():
  paid = records.Usage()
  one = records.Usage(input_tokens=1000)

  def ask(some):
    nonlocal paid
    paid += records.Usage(input_tokens=1000 * len(some))
    return [], paid

  budgeted = costs.within_budget(
    ask,
    budget_usd=0.1,
    prices=GPT4,
    spent=lambda: paid,
    expected_usage=lambda pair: (one, one),
  )
  budgeted(pairs(3))
  with pytest.raises(
    costs.BudgetExhausted, match=r"\$0\.09 of .* \$0\.10 .*raise"
  ):
    budgeted(pairs(1))
  assert paid.input_tokens == 3 * one.input_tokens
  free = costs.within_budget(
    ask,
    budget_usd=0.0,
    prices=GPT4,
    spent=lambda: paid,
    expected_usage=lambda pair: (one, one),
  )
  free(pairs(5))
