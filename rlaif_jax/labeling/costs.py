# SPDX-License-Identifier: Apache-2.0
"""Label costs: token prices, an estimate before the first request, a budget.

The estimate also gives the price of human labels by the paper's figures
(appendix L of Lee et al., arXiv 2309.00267) for comparison.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Callable, Iterable, Sequence

from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.labeling import store

# Expected and maximum usage of a pair.
UsageFn = Callable[[records.Pair], tuple[records.Usage, records.Usage]]

# Appendix L: mean price of a human rating of 50 words, in US dollars, without
# training of raters and second opinions.
HUMAN_USD_PER_50_WORDS = 0.11


Price = Annotated[float, validation.Bounds(ge=0, lt=math.inf)]


class BudgetExhausted(RuntimeError):
  """The next chunk could cost more than the rest of the budget."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices(validation.Validated):
  """US dollars per 1,000 tokens; 0 for a model in this process.

  Fields:
    input_usd_per_1k: price of input tokens.
    output_usd_per_1k: price of output tokens.
    cached_input_usd_per_1k: price of input tokens that the endpoint has in its
      cache; None uses `input_usd_per_1k`.
  """

  input_usd_per_1k: Price = 0.0
  output_usd_per_1k: Price = 0.0
  cached_input_usd_per_1k: Price | None = None

  def cost_usd(self, usage: records.Usage) -> float:
    """Returns the price of the tokens in US dollars."""
    cached = self.cached_input_usd_per_1k
    cached = self.input_usd_per_1k if cached is None else cached
    uncached_tokens = usage.input_tokens - usage.cached_input_tokens
    total = uncached_tokens * self.input_usd_per_1k
    total += usage.cached_input_tokens * cached
    total += usage.output_tokens * self.output_usd_per_1k
    return total / 1000


FREE = Prices()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostEstimate:
  """Tokens of labels before they are requested.

  Fields:
    pairs: number of pairs.
    usage: expected usage; rationales have the paper's mean length.
    max_usage: usage if every rationale has the maximum length.
    words: words of contexts and responses, which a human rater would read.
  """

  pairs: int
  usage: records.Usage
  max_usage: records.Usage
  words: int

  def human_usd(self) -> float:
    """Returns the price of one human rating per pair by the paper's figures."""
    return self.words * HUMAN_USD_PER_50_WORDS / 50


def estimate(
  pairs: Iterable[records.Pair], expected_usage: UsageFn
) -> CostEstimate:
  """Adds up the usage of pairs without a request to the labeler."""
  count = words = 0
  usage = max_usage = records.Usage()
  for pair in pairs:
    count += 1
    texts = (pair.context, pair.first, pair.second)
    words += sum(len(text.split()) for text in texts)
    mean, longest = expected_usage(pair)
    usage, max_usage = usage + mean, max_usage + longest
  return CostEstimate(
    pairs=count, usage=usage, max_usage=max_usage, words=words
  )


def describe(expected: CostEstimate, prices: Prices) -> str:
  """Formats an estimate, with the price of human labels for comparison."""
  usage, max_usage = expected.usage, expected.max_usage
  cost, max_cost = prices.cost_usd(usage), prices.cost_usd(max_usage)
  human = expected.human_usd()
  lines = [
    f"{expected.pairs} pairs, {usage.requests} requests:",
    f"  input tokens   {usage.input_tokens:>14,} "
    f"(at most {max_usage.input_tokens:,})",
    f"  output tokens  {usage.output_tokens:>14,} "
    f"(at most {max_usage.output_tokens:,})",
    f"  cost           {cost:>14,.2f} US dollars (at most {max_cost:,.2f})",
    f"  one human rating per pair costs {human:,.2f} US dollars at the paper's "
    f"${HUMAN_USD_PER_50_WORDS} per 50 words (appendix L)"
    + (f", {human / cost:.1f} times as much" if cost else ""),
  ]
  return "\n".join(lines)


def within_budget(
  label_fn: store.LabelFn,
  *,
  budget_usd: float,
  prices: Prices,
  spent: Callable[[], records.Usage],
  expected_usage: UsageFn,
) -> store.LabelFn:
  """Wraps `label_fn` to refuse chunks that could exceed the budget.

  Args:
    label_fn: labels pairs.
    budget_usd: limit of everything that the store has cost; 0 is no limit.
    prices: prices of the labeler's tokens.
    spent: returns the usage of the store so far.
    expected_usage: returns the expected and the maximum usage of a pair.

  Returns:
    A function that raises BudgetExhausted, with the amounts, instead of
    labelling a chunk that could exceed the budget.
  """

  def budgeted(pairs: Sequence[records.Pair]):
    so_far = prices.cost_usd(spent())
    chunk = prices.cost_usd(estimate(pairs, expected_usage).max_usage)
    if budget_usd and so_far + chunk > budget_usd:
      raise BudgetExhausted(
        f"${so_far:.2f} of the budget of ${budget_usd:.2f} is spent, and the "
        f"next {len(pairs)} pairs could cost ${chunk:.2f}; raise budget_usd to "
        "continue"
      )
    return label_fn(pairs)

  return budgeted
