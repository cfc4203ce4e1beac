# SPDX-License-Identifier: Apache-2.0
"""Hypothesis tests: effect, statistic, degrees of freedom and p-value.

None corrects for multiple tests.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Sequence

from jaxtyping import Shaped
import numpy as np

from rlaif_jax.ops import statistics

Values = Sequence[float] | np.ndarray

ALTERNATIVES = ("two-sided", "greater", "less")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestResult:
  """Result of a test.

  Attributes:
    effect: measured proportion, mean difference or W, with its n.
    statistic: t, chi-square, or the number of successes.
    df: degrees of freedom; None if the test has none.
    p_value: under the null hypothesis; NaN if it is undefined.
    n: rows, including those that the test leaves out.
    alternative: "two-sided", "greater" or "less".
    method: name of the test.
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
  """Returns the exact binomial test of a proportion (with Wilson interval).

  The two-sided p-value is the mass of all outcomes that are no likelier than
  the observed one. With n = 0 the p-value is 1.

  Args:
    successes: number of successes.
    n: number of trials.
    p: proportion under the null hypothesis, in (0, 1).
    alternative: "greater" tests whether the proportion is above p.

  Raises:
    ValueError: p or successes out of range, or an unknown alternative.
  """
  from scipy import stats  # It takes long to import.

  _check_alternative(alternative)
  if successes != int(successes) or not 0 <= successes <= n or not 0 < p < 1:
    raise ValueError(
      f"binomial: successes is {successes}, n is {n} and p is {p}; successes "
      "must be a whole number in [0, n] and p in (0, 1); leave ties out"
    )
  successes = int(successes)
  p_value = 1.0
  if n:
    p_value = float(stats.binomtest(successes, n, p, alternative).pvalue)
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
  """Returns the exact sign test of two policies on the same contexts.

  This is the binomial test of the rows where a > b among those where they
  differ; equal rows are left out of `effect.n`. On values of 0 and 1 it is
  McNemar's exact test (McNemar 1947).

  Args:
    a: [n] scores or outcomes of A.
    b: [n] of B, in the same order.
    alternative: "greater" tests whether A is higher more often.

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
  """Returns the paired t test of mean(a - b) = 0.

  The effect is mean(a) - mean(b) with its 95 % t interval. The p-value is 1 if
  all differences are 0, and 0 if they all have another common value; fewer
  than two rows give NaN. `scipy.stats.ttest_rel` has NaN in the first case.

  Args:
    a: [n].
    b: [n], in the same order.
    alternative: "greater" tests whether mean(a) > mean(b).

  Raises:
    ValueError: different lengths, NaN, or an unknown alternative.
  """
  a, b = _finite(*statistics.paired(a, b))
  n = len(a)
  difference = a - b
  value = float(difference.mean()) if n else float("nan")
  error = (
    float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else float("nan")
  )
  return _t_result(value, error, n - 1.0, n, alternative, "paired t")


def two_sample_t(
  a: Values,
  b: Values,
  *,
  pooled: bool = False,
  alternative: str = "two-sided",
) -> TestResult:
  """Returns Student's (pooled) or Welch's t test of mean(a) = mean(b).

  The samples are independent; for the same contexts `paired_t` has more power.
  The effect is mean(a) - mean(b) with its 95 % t interval. Fewer than two rows
  in either sample give NaN.

  Args:
    a: [n].
    b: [m].
    pooled: assumes one variance (Student 1908) instead of two (Welch 1947).
    alternative: "greater" tests whether mean(a) > mean(b).

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


def concordance(ranks: Shaped[np.ndarray, "m n"]) -> TestResult:
  """Returns the test that raters agree on a ranking more than by chance.

  Friedman's chi-square m (n - 1) W with n - 1 degrees of freedom, corrected
  for ties (Friedman 1937): an approximation, conservative for few raters. The
  effect is Kendall's W, without an interval, over m raters.
  `scipy.stats.friedmanchisquare` does not take two things.

  Args:
    ranks: [m raters, n things].

  Raises:
    ValueError: a rater left a thing unranked.
  """
  from scipy import stats

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
    p_value=float(stats.chi2.sf(raters * (things - 1) * w, things - 1.0)),
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
      f"{bad} values are not finite; leave out unanswered rows and report "
      "their number"
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
  """Returns the t test of a difference with its standard error."""
  from scipy import stats

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
    student = stats.t(df)
    p_value = {
      "two-sided": 2 * student.sf(abs(t)),
      "greater": student.sf(t),
      "less": student.cdf(t),
    }[alternative]
    spread = student.ppf(0.975) * error
  effect = statistics.Estimate(
    value=value,
    low=float(value - spread),
    high=float(value + spread),
    n=n,
    method=method,
  )
  return TestResult(
    effect=effect,
    statistic=t,
    df=df,
    p_value=float(p_value),
    n=n,
    alternative=alternative,
    method=method,
  )
