# SPDX-License-Identifier: Apache-2.0
"""Win rates and agreement of raters, from ranks without ties.

An item is one context whose responses were ranked by one or several raters
(paper, section 2.3 and appendix I: about 2,000 items of three responses, three
raters each). The paper does not state whether raters are pooled or vote; both
are implemented.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from typing import Mapping, Sequence

import numpy as np

from rlaif_jax.evaluation import win_rate
from rlaif_jax.ops import hypothesis
from rlaif_jax.ops import statistics

VOTES = ("pooled", "majority")

# policy -> item id -> characters of its response.
Lengths = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
  """Order of the policies by one rater on one item, the best first.

  Raises:
    ValueError: fewer than two policies, or a policy is repeated.
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
  """A against B by ranks.

  Attributes:
    a: a policy.
    b: another policy.
    votes: "pooled" (each rating is one outcome) or "majority" (each item is
      one outcome, a split vote is a tie).
    win_rate: fraction of outcomes with A above B, with the interval of a
      bootstrap over items.
    wilson: the same fraction with a Wilson interval whose n is the number of
      items.
    items: number of items on which both policies were ranked.
    ratings: number of ratings of these items.
    test: exact sign test over items, each by the majority of its raters; split
      votes are left out.
    length: win rate at equal length; None without lengths.
    length_ratio: mean length of A over mean length of B; None without lengths.
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
  """Agreement of raters on the order of an item.

  Attributes:
    w: mean of Kendall's W over items with two raters or more, with the
      interval of a bootstrap over items (paper: 0.6 to 0.7).
    by_chance: mean W of random ranks, 1 / raters.
    test: sum of Friedman's chi-square and of its degrees of freedom over
      items; conservative for few raters.
    one_rater: items with one rater; not counted elsewhere.
  """

  w: statistics.Estimate
  by_chance: float
  test: hypothesis.TestResult
  one_rater: int


def _by_item(
  rankings: Sequence[Ranking],
) -> dict[str, list[Ranking]]:
  """Returns item -> its rankings, both sorted.

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
          f"item {name!r}: rater {after!r} ranked it twice; keep one ranking"
        )
    known = set().union(*(row.order for row in rows))
    for row in rows:
      missing = sorted(known - set(row.order))
      if missing:
        raise ValueError(
          f"item {name!r}: rater {row.rater!r} did not rank {missing}, which "
          "other raters ranked; leave out this ranking or this item"
        )
  return dict(items)


def item_shares(
  rankings: Sequence[Ranking], names: tuple[str, str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
  """Returns (item ids, fraction of raters with A above B [n], raters [n]).

  Items are sorted by id; both policies were ranked on each. To test two
  comparisons with one policy, such as RLAIF and RLHF against SFT, use
  `hypothesis.paired_t` of these fractions on the same items.

  Raises:
    ValueError: a rater ranked an item twice, or other policies than others.
  """
  a, b = names
  ids, fractions, raters = [], [], []
  for name, rows in _by_item(rankings).items():
    if a in rows[0].order and b in rows[0].order:
      above = [row.order.index(a) < row.order.index(b) for row in rows]
      ids.append(name)
      fractions.append(float(np.mean(above)))
      raters.append(len(rows))
  return ids, np.asarray(fractions), np.asarray(raters, int)


def compare(
  names: tuple[str, str],
  rankings: Sequence[Ranking],
  *,
  votes: str = "pooled",
  lengths: Lengths | None = None,
) -> RankedComparison:
  """Compares two policies by ranks; see `RankedComparison`.

  Policies that were never ranked on one item have n = 0 and NaN.

  Args:
    names: of A and B.
    rankings: rows in any order.
    votes: "pooled" or "majority".
    lengths: characters of each response, for the win rate at equal length.

  Raises:
    ValueError: unknown `votes`, or see `item_shares`.
  """
  if votes not in VOTES:
    raise ValueError(f"votes is {votes!r}; it must be one of {VOTES}")
  ids, fractions, raters = item_shares(rankings, names)
  majority = win_rate.wins(fractions, np.full(len(fractions), 0.5))
  if votes == "majority":
    outcomes, clusters = majority, ids
  else:
    # One row per rating: fraction times raters is a whole number.
    above = np.rint(fractions * raters).astype(int)
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
  """Returns all pairs of ranked policies, each once, names sorted."""
  names = sorted({name for row in rankings for name in row.order})
  return [
    compare((a, b), rankings, votes=votes, lengths=lengths)
    for a, b in itertools.combinations(names, 2)
  ]


def concordance(rankings: Sequence[Ranking]) -> Concordance:
  """Returns the agreement of raters over all items.

  Without an item with two raters it is NaN with n = 0.

  Raises:
    ValueError: see `item_shares`.
  """
  from scipy import stats  # It takes long to import.

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
