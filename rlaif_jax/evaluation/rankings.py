# SPDX-License-Identifier: Apache-2.0
"""Win rates and agreement of raters, from ranks without ties.

An item is one context whose responses were ranked, by one rater or several
(paper, section 2.3 and appendix I: about 2,000 items of three responses, three
raters each). The paper does not say whether its raters are pooled or put to a
vote; both are here.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from typing import Mapping, Sequence

import numpy as np
from scipy import stats

from rlaif_jax.evaluation import win_rate
from rlaif_jax.ops import hypothesis
from rlaif_jax.ops import statistics

VOTES = ("pooled", "majority")

# policy -> item id -> characters of its response.
Lengths = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
  """One rater's order of the policies on one item, the best first.

  Raises:
    ValueError: fewer than two policies, or one of them twice.
  """

  id: str
  rater: str
  order: tuple[str, ...]

  def __post_init__(self):
    order = tuple(self.order)
    if len(order) < 2 or len(set(order)) < len(order):
      raise ValueError(
        f"Ranking of {self.id!r} by {self.rater!r}: order is {list(order)}; "
        "it must name at least two policies, each once"
      )
    object.__setattr__(self, "order", order)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankedComparison:
  """How often A is ranked above B.

  Fields:
    a: a policy.
    b: another.
    votes: "pooled" (each rating is one outcome) or "majority" (each item is
      one outcome, a split vote is a tie).
    win_rate: share of outcomes in which A is above B, with the interval of a
      bootstrap over items.
    wilson: the same share with Wilson's interval for as many outcomes as there
      are items: the raters of an item are taken as one.
    items: that both policies were ranked on.
    ratings: of these items.
    test: exact sign test over items, each by the majority of its raters; split
      votes are left out.
    length: at equal length; None where no lengths were given.
    length_ratio: mean length of A over that of B; None likewise.
  """

  a: str
  b: str
  votes: str
  win_rate: statistics.Estimate
  wilson: statistics.Estimate
  items: int
  ratings: int
  test: hypothesis.TestResult
  length: win_rate.LengthControl | None
  length_ratio: statistics.Estimate | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Concordance:
  """How well raters agree on the order, item by item.

  Fields:
    w: mean of Kendall's W over items with two raters or more, with the
      interval of a bootstrap over items (paper: 0.6 to 0.7).
    by_chance: what raters who rank at random have on average, 1 / raters.
    test: Friedman's chi-square added up over items, with its degrees of
      freedom; too careful for few raters.
    one_rater: items that only one rater ranked; in nothing else.
  """

  w: statistics.Estimate
  by_chance: float
  test: hypothesis.TestResult
  one_rater: int


def _by_item(
  rankings: Sequence[Ranking],
) -> dict[str, list[Ranking]]:
  """Item -> its rankings, both sorted, so that the order of rows is nothing.

  Raises:
    ValueError: a rater ranked an item twice, or raters of an item ranked
      different sets of policies.
  """
  items: dict[str, list[Ranking]] = collections.defaultdict(list)
  for ranking in sorted(rankings, key=lambda r: (r.id, r.rater)):
    items[ranking.id].append(ranking)
  for name, rows in items.items():
    raters = [row.rater for row in rows]
    for before, after in itertools.pairwise(raters):
      if before == after:
        raise ValueError(
          f"item {name!r}: rater {after!r} ranked it twice; keep one of them"
        )
    known = set().union(*(row.order for row in rows))
    for row in rows:
      missing = sorted(known - set(row.order))
      if missing:
        raise ValueError(
          f"item {name!r}: rater {row.rater!r} did not rank {missing}, which "
          "others did; leave this ranking or this item out"
        )
  return dict(items)


def item_shares(
  rankings: Sequence[Ranking], names: tuple[str, str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
  """(item ids, share of raters with A above B [n], raters [n]), sorted by id.

  Only items on which both policies were ranked. Two comparisons with one
  policy, such as RLAIF and RLHF against SFT, are tested on the same items by
  `hypothesis.paired_t` of their shares.

  Raises:
    ValueError: see `Ranking` rows that contradict each other.
  """
  a, b = names
  ids, shares, raters = [], [], []
  for name, rows in _by_item(rankings).items():
    if a in rows[0].order and b in rows[0].order:
      above = [row.order.index(a) < row.order.index(b) for row in rows]
      ids.append(name)
      shares.append(float(np.mean(above)))
      raters.append(len(rows))
  return ids, np.asarray(shares), np.asarray(raters, int)


def compare(
  names: tuple[str, str],
  rankings: Sequence[Ranking],
  *,
  votes: str = "pooled",
  lengths: Lengths | None = None,
) -> RankedComparison:
  """Compares two policies by ranks; see `RankedComparison`.

  Policies that were never ranked together have n = 0 and NaN.

  Args:
    names: of A and B.
    rankings: rows; their order does not matter.
    votes: "pooled" or "majority".
    lengths: characters of each response, for the win rate at equal length.

  Raises:
    ValueError: unknown `votes`, or contradictory rankings.
  """
  if votes not in VOTES:
    raise ValueError(f"votes is {votes!r}; it must be one of {VOTES}")
  ids, shares, raters = item_shares(rankings, names)
  majority = win_rate.wins(shares, np.full(len(shares), 0.5))
  if votes == "majority":
    outcomes, clusters = majority, ids
  else:
    # One row a rating: round, since a share times raters is a whole number.
    above = np.rint(shares * raters).astype(int)
    outcomes = np.concatenate(
      [np.repeat([1.0, 0.0], [k, m - k]) for k, m in zip(above, raters)]
      or [np.empty(0)]
    )
    clusters = [i for i, m in zip(ids, raters) for _ in range(m)]
  rate = statistics.bootstrap_mean(outcomes, clusters=clusters)
  n = len(ids)
  length, length_ratio = None, None
  if lengths is not None:
    of = [np.asarray([lengths[p][i] for i in ids], float) for p in names]
    length_ratio = statistics.ratio(*(np.maximum(x, 1.0) for x in of))
    times = np.ones(n, int) if votes == "majority" else raters
    length = win_rate.length_controlled(
      outcomes, tuple(np.repeat(x, times) for x in of), clusters=clusters
    )
  return RankedComparison(
    a=names[0],
    b=names[1],
    votes=votes,
    win_rate=rate,
    wilson=statistics.wilson(rate.value * n if n else 0.0, n),
    items=n,
    ratings=int(raters.sum()),
    test=hypothesis.sign_test(majority, np.full(n, 0.5)),
    length=length,
    length_ratio=length_ratio,
  )


def matrix(
  rankings: Sequence[Ranking],
  *,
  votes: str = "pooled",
  lengths: Lengths | None = None,
) -> list[RankedComparison]:
  """All pairs of policies that were ranked, each once, names sorted."""
  names = sorted({name for row in rankings for name in row.order})
  return [
    compare((a, b), rankings, votes=votes, lengths=lengths)
    for a, b in itertools.combinations(names, 2)
  ]


def concordance(rankings: Sequence[Ranking]) -> Concordance:
  """Agreement of raters over all items; see `Concordance`.

  No item with two raters gives NaN with n = 0.

  Raises:
    ValueError: a rater did not rank all that others ranked, or ranked twice.
  """
  tests, one_rater = [], 0
  for rows in _by_item(rankings).values():
    if len(rows) < 2:
      one_rater += 1
      continue
    names = sorted(rows[0].order)
    tests.append(
      hypothesis.concordance(
        np.asarray([[row.order.index(name) for name in names] for row in rows])
      )
    )
  w = statistics.bootstrap_mean([test.effect.value for test in tests])
  statistic = float(sum(test.statistic for test in tests))
  df = float(sum(test.df for test in tests))
  chances = [1 / test.n for test in tests]
  return Concordance(
    w=w,
    by_chance=float(np.mean(chances)) if chances else float("nan"),
    test=hypothesis.TestResult(
      effect=w,
      statistic=statistic,
      df=df,
      p_value=float(stats.chi2.sf(statistic, df)),
      n=len(tests) + one_rater,
      alternative="greater",
      method="Friedman chi-square, added up over items",
    ),
    one_rater=one_rater,
  )
