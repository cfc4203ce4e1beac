# SPDX-License-Identifier: Apache-2.0
"""Estimates with 95 % intervals, on the host.

Every printed number is an `Estimate`, with n and interval. Tests are in
`ops.hypothesis`, logistic regression is in `ops.regression`. No values give NaN
with n = 0, and a NaN among the values gives NaN.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Hashable, Sequence

from jaxtyping import Float, Shaped
import numpy as np

# The standard normal quantile of 0.975 (scipy.stats.norm.ppf).
Z95 = 1.959963984540054


def expit(
  x: Shaped[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape"]:
  """Returns 1 / (1 + exp(-x)), by SciPy, which takes long to import."""
  from scipy import special

  return special.expit(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A value with its 95 % interval, sample size and interval method."""

  value: float
  low: float
  high: float
  n: int
  method: str


def nothing(method: str) -> Estimate:
  """Returns the estimate of no data: NaN, with n = 0."""
  nan = float("nan")
  return Estimate(value=nan, low=nan, high=nan, n=0, method=method)


def wilson(successes: float, n: int) -> Estimate:
  """Returns a proportion with its Wilson score interval (Wilson 1927).

  A tie counts as half a success, which `scipy.stats.binomtest` does not take.
  n = 0 gives NaN for value and interval.

  Raises:
    ValueError: `successes` is not in [0, n].
  """
  if not -1e-9 <= successes <= n + 1e-9:
    raise ValueError(
      f"wilson: successes is {successes!r} and n is {n}; successes must be in "
      "[0, n]: leave out unanswered rows and report their number"
    )
  if n == 0:
    return nothing("Wilson")
  share = successes / n
  centre = share + Z95**2 / (2 * n)
  spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
  scale = 1 + Z95**2 / n
  return Estimate(
    value=share,
    # Rounding must not exclude a share of 0 or 1.
    low=min(share, max(0.0, (centre - spread) / scale)),
    high=max(share, min(1.0, (centre + spread) / scale)),
    n=n,
    method="Wilson",
  )


def mean(values: Sequence[float] | np.ndarray) -> Estimate:
  """Returns a mean with its normal interval, 1.96 standard errors."""
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
  """Returns the sum of totals over the sum of weights, for independent rows.

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
  clusters: Sequence[Hashable] | None = None,
  resamples: int = 2000,
  seed: int = 0,
) -> Estimate:
  """Returns a mean with its percentile bootstrap interval (Efron 1979).

  Rows of one cluster, such as the ratings of one context, are resampled
  together, since they are not independent (Field and Welsh 2007);
  `scipy.stats.bootstrap` has no clusters. The value is the mean over all rows.
  Fewer than two clusters give a NaN interval.

  Args:
    values: [n].
    clusters: [n] cluster name of each value; None makes each row a cluster.
    resamples: number of bootstrap samples.
    seed: of the resampling.
  """
  values = np.asarray(values, np.float64)
  if len(values) == 0:
    return nothing("bootstrap")
  rows = np.column_stack([values, np.ones(len(values))])
  sums = grouped_sums(rows, clusters)
  nan = float("nan")
  low, high = nan, nan
  if len(sums) > 1:
    samples = resampled_sums(sums, resamples=resamples, seed=seed)
    low, high = np.quantile(samples[:, 0] / samples[:, 1], [0.025, 0.975])
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
  clusters: Sequence[Hashable] | None = None,
  resamples: int = 2000,
  seed: int = 0,
) -> Estimate:
  """Returns mean(a) - mean(b) with its paired percentile bootstrap interval.

  Args:
    a: [n].
    b: [n], of the same contexts in the same order.
    clusters: see `bootstrap_mean`.
    resamples: see `bootstrap_mean`.
    seed: see `bootstrap_mean`.

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
  """Returns both as float64 vectors.

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
  rows: np.ndarray, clusters: Sequence[Hashable] | None
) -> np.ndarray:
  """Returns sums of rows [n, k] by cluster -> [number of clusters, k].

  None makes each row a cluster.

  Raises:
    ValueError: the number of cluster names is not n.
  """
  if clusters is None:
    return rows
  names, place = np.unique(np.asarray(clusters), return_inverse=True)
  if place.shape != (len(rows),):
    raise ValueError(
      f"clusters has the shape {place.shape}, and there are {len(rows)} rows; "
      "give one cluster name for each row"
    )
  sums = np.zeros((len(names), rows.shape[1]))
  np.add.at(sums, place, rows)
  return sums


def resampled_sums(
  rows: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> np.ndarray:
  """Returns bootstrap sums of rows [n, k] -> [resamples, k].

  The bootstrap of any function of sums is that function of these.
  """
  generator = np.random.default_rng(seed)
  n = len(rows)
  samples = np.empty((resamples, rows.shape[1]))
  for i in range(resamples):
    times = np.bincount(generator.integers(0, n, n), minlength=n)
    samples[i] = times @ rows
  return samples


def kendalls_w(ranks: Shaped[np.ndarray, "m n"]) -> float:
  """Returns Kendall's coefficient of concordance, corrected for ties.

  W = 12 S / (m^2 (n^3 - n) - m T), with S the spread of the rank sums of the
  n things and T the sum of t^3 - t over each rater's groups of t equal ranks
  (Kendall and Babington Smith 1939; paper, appendix I, without ties). Random
  ranks have W = 1/m on average. NaN for one rater, one thing, or if every rater
  gives all things the same rank.

  Args:
    ranks: [m raters, n things]; ranks or scores: only their order in a row is
      read.

  Raises:
    ValueError: a rater left a thing unranked (NaN).
  """
  from scipy import stats  # It takes long to import.

  ranks = np.asarray(ranks, np.float64)
  incomplete = np.isnan(ranks).any(axis=1)
  if incomplete.any():
    raise ValueError(
      f"rater in row {int(np.argmax(incomplete))} did not rank all "
      f"{ranks.shape[1]} things; leave out this rater or these things"
    )
  raters, things = ranks.shape
  if raters < 2 or things < 2:
    return float("nan")
  ranks = stats.rankdata(ranks, axis=1)
  tied = 0.0
  for row in ranks:
    counts = np.unique(row, return_counts=True)[1].astype(np.float64)
    tied += float((counts**3 - counts).sum())
  sums = ranks.sum(axis=0)
  spread = float(((sums - sums.mean()) ** 2).sum())
  most = raters**2 * (things**3 - things) - raters * tied
  return 12.0 * spread / most if most > 0 else float("nan")
