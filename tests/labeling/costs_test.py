# SPDX-License-Identifier: Apache-2.0
"""Prices, estimates against what is really asked, budgets, the paper's sum."""

from __future__ import annotations

from concurrent import futures

import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import pointwise_judge
from tests import testing
from tests.labeling import faulty_server

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


LIMITS = costs.RequestLimits(prompt="12345", max_tokens=9, count_tokens=len)
SOUND = {"prompt_tokens": 1005, "completion_tokens": 9}


def cached(count):
  return {"prompt_tokens_details": {"cached_tokens": count}}


def test_reported_tokens_count_if_the_request_can_cost_them():
  most = records.Usage(input_tokens=1005, output_tokens=9)
  assert LIMITS.usage(SOUND, "text") == most == LIMITS.max_usage()
  with_cache = LIMITS.usage({**SOUND, **cached(1005)}, "text")
  assert with_cache.cached_input_tokens == 1005 and not with_cache.estimated
  assert LIMITS.usage({**SOUND, "prompt_tokens_details": None}, "t") == most
  silent = LIMITS.usage({**SOUND, "completion_tokens": 0}, "")
  assert silent == records.Usage(input_tokens=1005)
  # A character of three bytes may be three tokens.
  wide = costs.RequestLimits(prompt="\u20ac", max_tokens=1, count_tokens=len)
  assert wide.max_usage().input_tokens == 1003


@pytest.mark.parametrize(
  "reported",
  [
    None,
    [],
    "7",
    {},
    {"prompt_tokens": 7},
    {**SOUND, "prompt_tokens": 0},
    {**SOUND, "prompt_tokens": 1006},
    {**SOUND, "prompt_tokens": 10**12},
    {**SOUND, "prompt_tokens": -7},
    {**SOUND, "prompt_tokens": "7"},
    {**SOUND, "prompt_tokens": 7.0},
    {**SOUND, "prompt_tokens": float("inf")},
    {**SOUND, "prompt_tokens": True},
    {**SOUND, "completion_tokens": 10},
    {**SOUND, "completion_tokens": -1},
    {**SOUND, "completion_tokens": 0},  # with a text
    {**SOUND, **cached(1006)},
    {**SOUND, **cached(-1)},
    {**SOUND, **cached("5")},
  ],
)
def test_other_reports_are_replaced_by_an_estimate(reported):
  usage = LIMITS.usage(reported, "text")
  assert usage == records.Usage(input_tokens=5, output_tokens=4, estimated=1)


def test_an_estimate_is_within_the_limits_and_not_zero():
  most = dict(output_tokens=9, estimated=1)
  assert LIMITS.usage(None, "x" * 50) == records.Usage(input_tokens=5, **most)
  # Texts that no request can have are not counted.
  lazy = costs.RequestLimits(
    prompt="\ud800", max_tokens=9, count_tokens=lambda text: len(text) - 1
  )
  assert lazy.usage(None, "x" * 9999) == records.Usage(input_tokens=1, **most)
  assert lazy.usage(None, "x").output_tokens == 1


def test_a_budget_reserves_what_a_request_can_cost():
  budget = costs.Budget(0.1, GPT4)
  one = records.Usage(input_tokens=1000)  # 3 cents
  assert all(budget.reserve(one) for _ in range(3))
  assert budget.is_in_use() and not budget.reserve(one)
  budget.charge(one, records.Usage(input_tokens=100))
  assert budget.reserve(one) and not budget.reserve(one)
  for _ in range(3):
    budget.charge(one, one)
  assert not budget.is_in_use()
  assert "$0.09 of the budget of $0.10 is spent" in str(budget.error("x", one))
  budget.count(records.Usage())
  assert all(budget.reserve(one) for _ in range(3))


def test_any_judge_keeps_the_budget_and_waits_for_what_is_under_way():
  """Four at once do not fit into the budget; one after the other they do."""
  pytest.importorskip("openai")
  examples = [
    records.Example(id=str(i), context=f"text {i}", response="r")
    for i in range(30)
  ]
  config = pointwise_judge.PointwiseJudgeConfig()
  heard = []
  with faulty_server.serving(max_concurrency=4, seconds=0.002) as (
    server,
    backend,
  ):
    backend.on_output = lambda row, output, usage: heard.append((row, usage))
    backend.budget = costs.Budget(3.0, costs.Prices(input_usd_per_1k=1.0))
    with pytest.raises(costs.BudgetExhausted, match="the next request could"):
      pointwise_judge.judge_responses(examples, backend, config)
    assert not backend.budget.is_in_use()
  paid = sum((usage for _, usage in heard), records.Usage())
  # A request costs at most a dollar more than what its characters cost.
  assert 1500 < paid.input_tokens < 3000 and server.most_in_flight == 2
  assert len(heard) == server.received.total() == len(dict(heard))


def test_a_budget_reserves_the_higher_price_of_cached_tokens():
  one = records.Usage(input_tokens=1000)
  for cached, fits in ((0.5, True), (0.01, True), (1.5, False)):
    prices = costs.Prices(input_usd_per_1k=1.0, cached_input_usd_per_1k=cached)
    assert costs.Budget(1.2, prices).reserve(one) == fits


def test_a_budget_needs_prices():
  with pytest.raises(ValueError, match="budget_usd is 5.*set Prices.input"):
    costs.Budget(5.0, costs.FREE)


def test_threads_share_a_budget():
  budget = costs.Budget(1.0, GPT4)
  one = records.Usage(output_tokens=100)  # 0.6 cents
  with futures.ThreadPoolExecutor(8) as pool:
    fits = list(pool.map(lambda _: budget.reserve(one), range(400)))
  assert sum(fits) == 166


def test_a_budget_stops_before_it_is_broken():
  one = records.Usage(input_tokens=1000)
  budget = costs.Budget(0.1, GPT4)
  budgeted = costs.within_budget(
    lambda some: ([], records.Usage(input_tokens=1000 * len(some))),
    budget,
    lambda pair: (one, one),
  )
  budgeted(pairs(3))
  with pytest.raises(
    costs.BudgetExhausted, match=r"\$0\.09 of .* \$0\.10 .*raise"
  ):
    budgeted(pairs(1))
  assert not budget.is_in_use()
