# SPDX-License-Identifier: Apache-2.0
"""Tests of hypotheses for reports, in numpy alone.

Each gives a `TestResult`: what was measured with its interval, the statistic,
its degrees of freedom and the p-value. None corrects for many tests.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Sequence

import numpy as np

from rlaif_jax.ops import distributions
from rlaif_jax.ops import statistics

Values = Sequence[float] | np.ndarray

ALTERNATIVES = ("two-sided", "greater", "less")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestResult:
  """A test, with what it is about.

  Fields:
    effect: what was measured (a share, a mean difference, W) and its n.
    statistic: t, chi-square, or the count of successes.
    df: degrees of freedom; None where the test has none.
    p_value: under the null hypothesis; NaN where the data cannot say.
    n: rows that came in, those that the test leaves out counted too.
    alternative: "two-sided", "greater" or "less".
    method: the test's name.
  """

  effect: statistics.Estimate
  statistic: float
  df: float | None
  p_value: float
  n: int
  alternative: str
  method: str


def binomial(
  successes: int, n: int, p: float = 0.5, *, alternative: str = "two-sided"
) -> TestResult:
  """Exact binomial test; the effect is the share of successes (Wilson).

  Two-sided it adds up all outcomes that are no likelier than the one seen.
  With n = 0 the p-value is 1.

  Args:
    successes: how many.
    n: out of how many.
    p: the share under the null hypothesis, inside (0, 1).
    alternative: "greater" asks whether the share is above p.

  Raises:
    ValueError: p or successes out of range, or an unknown alternative.
  """
  _check_alternative(alternative)
  if successes != int(successes) or not 0 <= successes <= n or not 0 < p < 1:
    raise ValueError(
      f"binomial: {successes} successes of {n} at p = {p}; successes must be "
      "a whole number from 0 to n and p inside (0, 1); leave ties out"
    )
  successes = int(successes)
  if alternative == "two-sided":
    p_value = statistics.binomial_test(successes, n, p)
  else:
    mass = np.exp(statistics.binomial_log_mass(n, p))
    tail = (
      mass[successes:] if alternative == "greater" else mass[: successes + 1]
    )
    p_value = min(1.0, float(tail.sum()))
  return TestResult(
    effect=statistics.wilson(successes, n),
    statistic=float(successes),
    df=None,
    p_value=p_value,
    n=n,
    alternative=alternative,
    method="exact binomial",
  )


def sign_test(
  a: Values, b: Values, *, alternative: str = "two-sided"
) -> TestResult:
  """Exact test of two policies on the same contexts: is A higher as often?

  The binomial test of the rows where a > b among those where they differ; rows
  where they are equal say nothing and are left out of `effect.n`. On values of
  0 and 1 it is McNemar's exact test (McNemar 1947).

  Args:
    a: [n] scores or outcomes of A.
    b: [n] of B, in the same order.
    alternative: "greater" asks whether A is higher more often.

  Raises:
    ValueError: different lengths, or NaN.
  """
  a, b = _finite(*statistics.paired(a, b))
  higher, lower = int((a > b).sum()), int((a < b).sum())
  result = binomial(higher, higher + lower, alternative=alternative)
  return dataclasses.replace(result, n=len(a), method="exact sign test")


def paired_t(
  a: Values, b: Values, *, alternative: str = "two-sided"
) -> TestResult:
  """Student's t test of mean(a - b) = 0, in pairs.

  The effect is mean(a) - mean(b) with its 95 % t interval. Differences that
  are all 0 have p-value 1, and all the same otherwise 0; fewer than two rows
  give NaN.

  Args:
    a: [n].
    b: [n], in the same order.
    alternative: "greater" asks whether mean(a) > mean(b).

  Raises:
    ValueError: different lengths, NaN, or an unknown alternative.
  """
  a, b = _finite(*statistics.paired(a, b))
  n = len(a)
  gap = a - b
  value = float(gap.mean()) if n else float("nan")
  error = float(gap.std(ddof=1)) / math.sqrt(n) if n > 1 else float("nan")
  return _t_result(value, error, n - 1.0, n, alternative, "paired t")


def two_sample_t(
  a: Values,
  b: Values,
  *,
  pooled: bool = False,
  alternative: str = "two-sided",
) -> TestResult:
  """Student's (pooled) or Welch's t test of mean(a) = mean(b).

  The samples are independent; for the same contexts `paired_t` is sharper.
  The effect is mean(a) - mean(b) with its 95 % t interval. Fewer than two rows
  on either side give NaN.

  Args:
    a: [n].
    b: [m].
    pooled: one variance for both (Student 1908) instead of two (Welch 1947).
    alternative: "greater" asks whether mean(a) > mean(b).

  Raises:
    ValueError: NaN, or an unknown alternative.
  """
  a, b = _finite(np.asarray(a, np.float64), np.asarray(b, np.float64))
  n, m = len(a), len(b)
  method = "pooled t" if pooled else "Welch t"
  nan = float("nan")
  if n < 2 or m < 2:
    value = float(a.mean() - b.mean()) if n and m else nan
    return _t_result(value, nan, nan, n + m, alternative, method)
  part_a, part_b = float(a.var(ddof=1)) / n, float(b.var(ddof=1)) / m
  squared, df = part_a + part_b, float(n + m - 2)
  if pooled:
    within = part_a * n * (n - 1) + part_b * m * (m - 1)
    squared = within / df * (1 / n + 1 / m)
  elif squared > 0:
    df = squared**2 / (part_a**2 / (n - 1) + part_b**2 / (m - 1))
  value = float(a.mean() - b.mean())
  return _t_result(value, math.sqrt(squared), df, n + m, alternative, method)


def concordance(ranks: np.ndarray) -> TestResult:
  """Whether raters agree more than by chance on one set of things.

  Friedman's chi-square m (n - 1) W with n - 1 degrees of freedom, corrected
  for ties (Friedman 1937). It is an approximation, too careful for few raters.
  The effect is Kendall's W, without an interval, over m raters.

  Args:
    ranks: [m raters, n things].

  Raises:
    ValueError: a rater left something unranked.
  """
  ranks = np.asarray(ranks, np.float64)
  w = statistics.kendalls_w(ranks)
  raters, things = ranks.shape
  nan = float("nan")
  return TestResult(
    effect=statistics.Estimate(
      value=w, low=nan, high=nan, n=raters, method="Kendall's W"
    ),
    statistic=raters * (things - 1) * w,
    df=things - 1.0,
    p_value=distributions.chi_square_sf(
      raters * (things - 1) * w, things - 1.0
    ),
    n=raters,
    alternative="greater",
    method="Friedman chi-square",
  )


def _check_alternative(alternative: str) -> None:
  if alternative not in ALTERNATIVES:
    raise ValueError(
      f"alternative is {alternative!r}; it must be one of {ALTERNATIVES}"
    )


def _finite(*vectors: np.ndarray) -> tuple[np.ndarray, ...]:
  bad = sum(int((~np.isfinite(v)).sum()) for v in vectors)
  if bad:
    raise ValueError(
      f"{bad} values are not finite; leave out the rows that have no answer, "
      "and count them"
    )
  return vectors


def _t_result(
  value: float,
  error: float,
  df: float,
  n: int,
  alternative: str,
  method: str,
) -> TestResult:
  """A t test from a difference and its standard error."""
  _check_alternative(alternative)
  nan = float("nan")
  if error > 0:
    t = value / error
  elif error == 0:
    t = 0.0 if value == 0 else math.copysign(math.inf, value)
  else:
    t = nan
  if math.isnan(t):
    p_value, spread = nan, nan
  else:
    sign = 1.0 if alternative == "less" else -1.0
    if alternative == "two-sided":
      p_value = 2 * distributions.student_t_cdf(-abs(t), df)
    else:
      p_value = distributions.student_t_cdf(sign * t, df)
    spread = distributions.student_t_quantile(0.975, df) * error
  effect = statistics.Estimate(
    value=value, low=value - spread, high=value + spread, n=n, method=method
  )
  return TestResult(
    effect=effect,
    statistic=t,
    df=df,
    p_value=p_value,
    n=n,
    alternative=alternative,
    method=method,
  )
