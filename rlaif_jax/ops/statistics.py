# SPDX-License-Identifier: Apache-2.0
"""Estimates with intervals for reports, in numpy alone, on the host.

Every figure that is printed travels as an `Estimate`, with n and interval.
Tests are in `ops.hypothesis`, logistic regression is in `ops.regression`.
No values give NaN with n = 0, and a NaN among the values gives NaN.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Sequence

import numpy as np

# The standard normal quantile of 0.975.
Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A value with its 95 % interval, n, and how the interval was made."""

  value: float
  low: float
  high: float
  n: int
  method: str


def nothing(method: str) -> Estimate:
  """The estimate of no data: NaN, with n = 0."""
  nan = float("nan")
  return Estimate(value=nan, low=nan, high=nan, n=0, method=method)


def wilson(successes: float, n: int) -> Estimate:
  """Wilson score interval of a share (Wilson 1927); halves are ties.

  n = 0 gives NaN for value and interval.

  Raises:
    ValueError: `successes` is not from 0 to n.
  """
  if not -1e-9 <= successes <= n + 1e-9:
    raise ValueError(
      f"wilson: successes is {successes!r} of n = {n}; it must be a number "
      "from 0 to n: leave out what was not answered, and count it apart"
    )
  if n == 0:
    return nothing("Wilson")
  share = successes / n
  centre = share + Z95**2 / (2 * n)
  spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
  scale = 1 + Z95**2 / n
  return Estimate(
    value=share,
    # At 0 and 1 rounding would leave the share itself out.
    low=min(share, max(0.0, (centre - spread) / scale)),
    high=max(share, min(1.0, (centre + spread) / scale)),
    n=n,
    method="Wilson",
  )


def mean(values: Sequence[float] | np.ndarray) -> Estimate:
  """Mean with the normal interval, 1.96 standard errors each way."""
  values = np.asarray(values, np.float64)
  n = len(values)
  if n == 0:
    return nothing("normal")
  value = float(values.mean())
  error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else float("nan")
  return Estimate(
    value=value,
    low=value - Z95 * error,
    high=value + Z95 * error,
    n=n,
    method="normal",
  )


def ratio(
  totals: Sequence[float] | np.ndarray, weights: Sequence[float] | np.ndarray
) -> Estimate:
  """Sum of totals over sum of weights, its rows drawn independently.

  The interval is the delta method's: 1.96 times the root of the sum of
  (total - ratio * weight)^2, over the sum of weights. n counts rows.
  """
  totals, weights = np.asarray(totals, float), np.asarray(weights, float)
  n = len(totals)
  value = float(totals.sum() / weights.sum()) if n else float("nan")
  rest = totals - value * weights
  spread = float("nan")
  if n > 1:
    variance = float(np.sum(rest**2)) * n / (n - 1)
    spread = Z95 * math.sqrt(variance) / float(weights.sum())
  return Estimate(
    value=value, low=value - spread, high=value + spread, n=n, method="delta"
  )


def bootstrap_mean(
  values: Sequence[float] | np.ndarray,
  *,
  clusters: Sequence[Any] | None = None,
  resamples: int = 2000,
  seed: int = 0,
) -> Estimate:
  """Percentile bootstrap of a mean (Efron 1979), with a fixed seed.

  Rows of one cluster (the ratings of one context, say) are drawn together, so
  that they do not count as independent (Field and Welsh 2007). The value is
  the mean over all rows. Fewer than two clusters tell nothing of the spread,
  so the interval is NaN.

  Args:
    values: [n].
    clusters: [n] names of the cluster of each value; None makes each its own.
    resamples: how many times the clusters are drawn with replacement.
    seed: of the draws.
  """
  values = np.asarray(values, np.float64)
  if len(values) == 0:
    return nothing("bootstrap")
  rows = np.column_stack([values, np.ones(len(values))])
  sums = grouped_sums(rows, clusters)
  nan = float("nan")
  low, high = nan, nan
  if len(sums) > 1:
    drawn = resampled_sums(sums, resamples=resamples, seed=seed)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
  method = "bootstrap"
  if clusters is not None:
    method += f" of {len(sums)} clusters"
  return Estimate(
    value=float(values.mean()),
    low=float(low),
    high=float(high),
    n=len(values),
    method=method,
  )


def bootstrap_difference(
  a: Sequence[float] | np.ndarray,
  b: Sequence[float] | np.ndarray,
  *,
  clusters: Sequence[Any] | None = None,
  resamples: int = 2000,
  seed: int = 0,
) -> Estimate:
  """Percentile bootstrap of mean(a) - mean(b), drawn in pairs.

  Args:
    a: [n].
    b: [n], of the same contexts in the same order.
    clusters: as in `bootstrap_mean`.
    resamples: likewise.
    seed: likewise.

  Raises:
    ValueError: a and b differ in length.
  """
  a, b = paired(a, b)
  return bootstrap_mean(
    a - b, clusters=clusters, resamples=resamples, seed=seed
  )


def paired(
  a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Both as float64 vectors.

  Raises:
    ValueError: they differ in length.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.shape != b.shape or a.ndim != 1:
    raise ValueError(
      f"paired values have the shapes {a.shape} and {b.shape}; they must be "
      "two vectors of the same rows in the same order"
    )
  return a, b


def grouped_sums(
  rows: np.ndarray, clusters: Sequence[Any] | None
) -> np.ndarray:
  """Sums of rows [n, k] by cluster -> [number of clusters, k].

  None makes each row its own cluster.

  Raises:
    ValueError: not one cluster name a row.
  """
  if clusters is None:
    return rows
  names, place = np.unique(np.asarray(clusters), return_inverse=True)
  if place.shape != (len(rows),):
    raise ValueError(
      f"there are {place.shape} cluster names for {len(rows)} rows; give one "
      "for each row"
    )
  sums = np.zeros((len(names), rows.shape[1]))
  np.add.at(sums, place, rows)
  return sums


def resampled_sums(
  rows: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> np.ndarray:
  """Sums over rows [n, k] drawn n at a time with replacement -> [resamples, k].

  A statistic that is a function of sums has its bootstrap draws from these.
  """
  generator = np.random.default_rng(seed)
  n = len(rows)
  drawn = np.empty((resamples, rows.shape[1]))
  for i in range(resamples):
    times = np.bincount(generator.integers(0, n, n), minlength=n)
    drawn[i] = times @ rows
  return drawn


def binomial_log_mass(n: int, p: float) -> np.ndarray:
  """log P(k successes of n), [n + 1]; 0 < p < 1."""
  ks = np.arange(n + 1)
  log_choose = math.lgamma(n + 1) - np.asarray(
    [math.lgamma(k + 1) + math.lgamma(n - k + 1) for k in ks]
  )
  return log_choose + (ks * math.log(p) + (n - ks) * math.log1p(-p))


def binomial_test(successes: int, n: int, p: float = 0.5) -> float:
  """Exact two-sided binomial test: the mass of outcomes no likelier.

  `ops.hypothesis.binomial` gives it with the share, and one-sided.
  """
  if n == 0:
    return 1.0
  log_mass = binomial_log_mass(n, p)
  own = log_mass[successes]
  return float(min(1.0, np.exp(log_mass[log_mass <= own + 1e-9]).sum()))


def average_ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
  """Ranks from 1 of one vector, equal values sharing their mean rank."""
  _, place, counts = np.unique(
    np.asarray(values, np.float64), return_inverse=True, return_counts=True
  )
  last = np.cumsum(counts)
  return (last - (counts - 1) / 2)[place]


def kendalls_w(ranks: np.ndarray) -> float:
  """Kendall's coefficient of concordance, corrected for ties.

  W = 12 S / (m^2 (n^3 - n) - m T), with S the spread of the rank sums of the
  n things and T the sum of t^3 - t over each rater's groups of t equal ranks
  (Kendall and Babington Smith 1939; paper, appendix I, without ties). Raters
  who rank at random have W = 1/m on average. NaN for one rater, one thing, or
  raters who all rank everything alike.

  Args:
    ranks: [m raters, n things]; only the order in a row counts, so ranks,
      scores and ranks that leave gaps after ties all do.

  Raises:
    ValueError: a rater left something unranked (NaN).
  """
  ranks = np.asarray(ranks, np.float64)
  gaps = np.isnan(ranks).any(axis=1)
  if gaps.any():
    raise ValueError(
      f"rater in row {int(np.argmax(gaps))} did not rank all "
      f"{ranks.shape[1]} things; leave this rater or these things out"
    )
  raters, things = ranks.shape
  if raters < 2 or things < 2:
    return float("nan")
  ranks = np.stack([average_ranks(row) for row in ranks])
  tied = 0.0
  for row in ranks:
    counts = np.unique(row, return_counts=True)[1].astype(np.float64)
    tied += float((counts**3 - counts).sum())
  sums = ranks.sum(axis=0)
  spread = float(((sums - sums.mean()) ** 2).sum())
  most = raters**2 * (things**3 - things) - raters * tied
  return 12.0 * spread / most if most > 0 else float("nan")
