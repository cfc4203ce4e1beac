# SPDX-License-Identifier: Apache-2.0
"""Label costs: token prices, an estimate before the first request, a budget.

The estimate also gives the price of human labels by the paper's figures
(appendix L of Lee et al., arXiv 2309.00267) for comparison.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Annotated, Callable, Iterable, Sequence

from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.labeling import store

# Expected and maximum usage of a pair.
UsageFn = Callable[[records.Pair], tuple[records.Usage, records.Usage]]

# Appendix L: mean price of a human rating of 50 words, in US dollars, without
# training of raters and second opinions.
HUMAN_USD_PER_50_WORDS = 0.11


# Tokens that a server may add to a prompt: its chat template, a system prompt.
PROMPT_OVERHEAD = 1000
# No text is longer per token; a run of blanks can be one token.
MAX_CHARACTERS_PER_TOKEN = 128

Price = Annotated[float, validation.Bounds(ge=0, lt=math.inf)]


class BudgetExhausted(RuntimeError):
  """The next request could cost more than the rest of the budget."""


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

  def max_cost_usd(self, usage: records.Usage) -> float:
    """Returns the price of the tokens, whatever number of them is cached."""
    cached = dataclasses.replace(usage, cached_input_tokens=usage.input_tokens)
    return max(self.cost_usd(usage), self.cost_usd(cached))


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestLimits:
  """Limits of the usage of one request, whatever the server reports.

  A prompt of n bytes of UTF-8 has at most n tokens, and `PROMPT_OVERHEAD` that
  the server adds.

  Fields:
    prompt: text of the request.
    max_tokens: limit of the generated tokens, as it is sent.
    count_tokens: number of tokens of a text, or an estimate of it.
  """

  prompt: str
  max_tokens: int
  count_tokens: Callable[[str], int]

  def max_usage(self) -> records.Usage:
    """Returns the largest usage that the request can have."""
    size = len(self.prompt.encode("utf-8", "surrogatepass"))
    return records.Usage(
      input_tokens=size + PROMPT_OVERHEAD, output_tokens=self.max_tokens
    )

  def usage(self, reported: object, text: str) -> records.Usage:
    """Returns the usage of a response, never negative and never without input.

    Args:
      reported: the "usage" of the response, of any type.
      text: generated text.

    Returns:
      The reported tokens if they are integers that the request can cost.
      Otherwise an estimate from prompt and text, marked as `estimated`.
    """
    details = _field(reported, "prompt_tokens_details")
    counts = (
      _field(reported, "prompt_tokens"),
      _field(reported, "completion_tokens"),
      _field(details, "cached_tokens") or 0,
    )
    most = self.max_usage()
    if all(type(count) is int for count in counts):
      total, written, cached = counts
      if (
        1 <= total <= most.input_tokens
        and bool(text) <= written <= self.max_tokens
        and 0 <= cached <= total
      ):
        return records.Usage(
          input_tokens=total, output_tokens=written, cached_input_tokens=cached
        )
    written = self.max_tokens
    if len(text) < MAX_CHARACTERS_PER_TOKEN * written:
      written = min(max(self._count(text), bool(text)), written)
    return records.Usage(
      input_tokens=min(max(self._count(self.prompt), 1), most.input_tokens),
      output_tokens=written,
      estimated=1,
    )

  def _count(self, text: str) -> int:
    # Tokenizers do not take half a surrogate pair.
    return self.count_tokens(text.encode("utf-8", "replace").decode("utf-8"))


def _field(row: object, name: str) -> object:
  """Returns a field of a JSON object; None if there is no such field."""
  return row.get(name) if isinstance(row, dict) else None


class Budget:
  """A limit in US dollars; threads may share it.

  Each request reserves what it can cost at most and is not sent if that does
  not fit beside what is spent and reserved. `charge` replaces the reservation
  by the cost. Hence the counted cost never exceeds the limit.

  Args:
    limit_usd: the limit.
    prices: prices of the tokens.

  Raises:
    ValueError: all prices are 0, so that nothing would count.
  """

  def __init__(self, limit_usd: float, prices: Prices):
    if not (prices.input_usd_per_1k or prices.output_usd_per_1k):
      raise ValueError(
        f"budget_usd is {limit_usd}, but all prices are 0, so that the budget "
        "would never be used up; set Prices.input_usd_per_1k and "
        "Prices.output_usd_per_1k, or budget_usd to 0 (no limit)"
      )
    self._limit = limit_usd
    self._prices = prices
    self._spent = 0.0
    self._reserved: list[float] = []
    self._lock = threading.Lock()

  def count(self, usage: records.Usage) -> None:
    """Sets what is spent to the cost of `usage`."""
    with self._lock:
      self._spent = self._prices.cost_usd(usage)

  def reserve(self, most: records.Usage) -> bool:
    """Reserves the cost of `most`; returns False if it does not fit."""
    cost = self._prices.max_cost_usd(most)
    with self._lock:
      fits = self._spent + sum(self._reserved) + cost <= self._limit
      if fits:
        self._reserved.append(cost)
    return fits

  def charge(self, most: records.Usage, usage: records.Usage) -> None:
    """Replaces the reservation of `most` by the cost of `usage`."""
    with self._lock:
      self._reserved.remove(self._prices.max_cost_usd(most))
      self._spent += self._prices.cost_usd(usage)

  def is_in_use(self) -> bool:
    """Returns whether anything is reserved."""
    with self._lock:
      return bool(self._reserved)

  def error(self, what: str, most: records.Usage) -> BudgetExhausted:
    """Returns the error that `what`, which can cost `most`, does not fit."""
    cost = self._prices.max_cost_usd(most)
    with self._lock:
      return BudgetExhausted(
        f"{_dollars(self._spent)} of the budget of {_dollars(self._limit)} is "
        f"spent, and {what} could cost {_dollars(cost)}; everything that is "
        "paid for is kept; raise budget_usd to continue"
      )


def _dollars(amount: float) -> str:
  return f"${amount:.2f}" if amount >= 0.01 or not amount else f"${amount:.2g}"


def within_budget(
  label_fn: store.LabelFn, budget: Budget, expected_usage: UsageFn
) -> store.LabelFn:
  """Wraps `label_fn` to refuse chunks that could exceed the budget.

  For models in this process; an endpoint reserves each request.

  Args:
    label_fn: labels pairs.
    budget: the budget.
    expected_usage: returns the expected and the maximum usage of a pair.

  Returns:
    A function that raises BudgetExhausted, with the amounts, instead of
    labelling a chunk that could exceed the budget.
  """

  def budgeted(pairs: Sequence[records.Pair]):
    most = estimate(pairs, expected_usage).max_usage
    if not budget.reserve(most):
      raise budget.error(f"the next {len(pairs)} pairs", most)
    usage = records.Usage()
    try:
      labels, usage = label_fn(pairs)
    finally:
      budget.charge(most, usage)
    return labels, usage

  return budgeted
