# SPDX-License-Identifier: Apache-2.0
"""What labels cost: prices, an estimate before the first call, a budget.

Also the price of human labels by the paper's figures (appendix L of Lee et
al., arXiv 2309.00267), so that both stand side by side.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Callable, Iterable, Sequence

from rlaif_jax.core import records
from rlaif_jax.labeling import store

# What a pair would cost, and at most.
Expect = Callable[[records.Pair], tuple[records.Usage, records.Usage]]

# Appendix L: the mean price of a human rating of 50 words, in US dollars. It
# leaves out the raters' training and second opinions.
HUMAN_USD_PER_50_WORDS = 0.11


class BudgetSpent(RuntimeError):
  """The next chunk could cost more than what is left."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
  """US dollars per 1,000 tokens; 0 for a labeler of one's own.

  Fields:
    input_usd_per_1k: of tokens read.
    output_usd_per_1k: of tokens written.
    cached_input_usd_per_1k: of tokens read from the endpoint's cache; -1: as
      the others.
  """

  input_usd_per_1k: float = 0.0
  output_usd_per_1k: float = 0.0
  cached_input_usd_per_1k: float = -1.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      unset = field.name.startswith("cached") and value == -1.0
      if not unset and not 0.0 <= value < math.inf:
        raise ValueError(
          f"{field.name} is {value}; a price is a finite number of dollars, "
          "at least 0"
        )

  def cost_usd(self, usage: records.Usage) -> float:
    """What the tokens cost, in US dollars."""
    cached = self.cached_input_usd_per_1k
    cached = self.input_usd_per_1k if cached < 0 else cached
    fresh = usage.input_tokens - usage.cached_input_tokens
    total = fresh * self.input_usd_per_1k
    total += usage.cached_input_tokens * cached
    total += usage.output_tokens * self.output_usd_per_1k
    return total / 1000


FREE = Prices()  # A labeler of one's own.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """Tokens and dollars of labels that are not bought yet.

  `usage` counts rationales with their mean length in the paper, `most` with
  the longest that the judge allows. `words` are those of contexts and
  candidates, which a human would read.
  """

  pairs: int
  usage: records.Usage
  most: records.Usage
  words: int

  def human_usd(self) -> float:
    """One human rating of each pair, by the paper's price per word."""
    return self.words * HUMAN_USD_PER_50_WORDS / 50


def estimate(pairs: Iterable[records.Pair], expect: Expect) -> Estimate:
  """Adds up what pairs would cost; calls no labeler."""
  count = words = 0
  usage = most = records.Usage()
  for pair in pairs:
    count += 1
    texts = (pair.context, pair.first, pair.second)
    words += sum(len(text.split()) for text in texts)
    mean, longest = expect(pair)
    usage, most = usage + mean, most + longest
  return Estimate(pairs=count, usage=usage, most=most, words=words)


def describe(expected: Estimate, prices: Prices) -> str:
  """An estimate for people, with the price of human labels beside it."""
  cost, most = (prices.cost_usd(u) for u in (expected.usage, expected.most))
  lines = [
    f"{expected.pairs} pairs, {expected.usage.requests} requests:",
    f"  tokens in   {expected.usage.input_tokens:>14,} "
    f"(at most {expected.most.input_tokens:,})",
    f"  tokens out  {expected.usage.output_tokens:>14,} "
    f"(at most {expected.most.output_tokens:,})",
    f"  cost        {cost:>14,.2f} US dollars (at most {most:,.2f})",
    f"  one human rater each {expected.human_usd():,.2f} US dollars, by the "
    f"paper's ${HUMAN_USD_PER_50_WORDS} for 50 words (its appendix L)"
    + (f": {expected.human_usd() / cost:.1f} times as much" if cost else ""),
  ]
  return "\n".join(lines)


def within_budget(
  ask: store.Ask,
  *,
  budget_usd: float,
  prices: Prices,
  spent: Callable[[], records.Usage],
  expect: Expect,
) -> store.Ask:
  """`ask`, but not for a chunk that could cost more than what is left.

  Args:
    ask: labels pairs.
    budget_usd: limit of all that the store has paid; 0 is no limit.
    prices: of the labeler's tokens.
    spent: what the store has paid so far.
    expect: what a pair would cost, and at most.

  Raises (when asked):
    BudgetSpent: with what was spent and what the chunk could cost.
  """

  def careful(pairs: Sequence[records.Pair]):
    so_far = prices.cost_usd(spent())
    more = prices.cost_usd(estimate(pairs, expect).most)
    if budget_usd and so_far + more > budget_usd:
      raise BudgetSpent(
        f"${so_far:.2f} of the budget of ${budget_usd:.2f} are spent, and the "
        f"next {len(pairs)} pairs could cost ${more:.2f}; raise budget_usd to "
        "go on"
      )
    return ask(pairs)

  return careful
