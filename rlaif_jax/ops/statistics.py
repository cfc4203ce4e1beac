# SPDX-License-Identifier: Apache-2.0
"""Intervals and tests for reports, in numpy alone, on the host.

Every figure that is printed travels as an `Estimate`, with n and interval.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Sequence

import numpy as np

_Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A value with its 95 % interval, n, and how the interval was made."""

  value: float
  low: float
  high: float
  n: int
  method: str


def wilson(successes: float, n: int) -> Estimate:
  """Wilson score interval of a share (Wilson 1927); halves are ties.

  n = 0 gives NaN for value and interval.
  """
  if n == 0:
    nan = float("nan")
    return Estimate(value=nan, low=nan, high=nan, n=0, method="Wilson")
  share = successes / n
  centre = share + _Z95**2 / (2 * n)
  spread = _Z95 * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n * n))
  scale = 1 + _Z95**2 / n
  return Estimate(
    value=share,
    low=max(0.0, (centre - spread) / scale),
    high=min(1.0, (centre + spread) / scale),
    n=n,
    method="Wilson",
  )


def mean(values: Sequence[float] | np.ndarray) -> Estimate:
  """Mean with the normal interval, 1.96 standard errors each way."""
  values = np.asarray(values, np.float64)
  n = len(values)
  if n == 0:
    nan = float("nan")
    return Estimate(value=nan, low=nan, high=nan, n=0, method="normal")
  value = float(values.mean())
  error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else float("nan")
  return Estimate(
    value=value,
    low=value - _Z95 * error,
    high=value + _Z95 * error,
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
    spread = _Z95 * math.sqrt(variance) / float(weights.sum())
  return Estimate(
    value=value, low=value - spread, high=value + spread, n=n, method="delta"
  )


def bootstrap_mean(
  values: Sequence[float] | np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
  """Percentile bootstrap of a mean (Efron 1979), with a fixed seed."""
  values = np.asarray(values, np.float64)
  if len(values) == 0:
    return mean(values)
  generator = np.random.default_rng(seed)
  rows = generator.integers(0, len(values), (resamples, len(values)))
  low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
  return Estimate(
    value=float(values.mean()),
    low=float(low),
    high=float(high),
    n=len(values),
    method="bootstrap",
  )


def binomial_test(successes: int, n: int, p: float = 0.5) -> float:
  """Exact two-sided binomial test: the mass of outcomes no likelier."""
  if n == 0:
    return 1.0
  ks = np.arange(n + 1)
  log_mass = (
    math.lgamma(n + 1)
    - np.asarray([math.lgamma(k + 1) + math.lgamma(n - k + 1) for k in ks])
    + ks * math.log(p)
    + (n - ks) * math.log1p(-p)
  )
  own = log_mass[successes]
  return float(min(1.0, np.exp(log_mass[log_mass <= own + 1e-9]).sum()))


def kendalls_w(ranks: np.ndarray) -> float:
  """Agreement of raters, W = 12 S / (m^2 (n^3 - n)); ranks [raters, items]."""
  ranks = np.asarray(ranks, np.float64)
  raters, items = ranks.shape
  sums = ranks.sum(axis=0)
  spread = float(((sums - sums.mean()) ** 2).sum())
  return 12.0 * spread / (raters**2 * (items**3 - items))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticFit:
  """Coefficients (intercept first) and their covariance."""

  coefficients: np.ndarray
  covariance: np.ndarray

  def at(self, features: Sequence[float], n: int) -> Estimate:
    """Predicted probability; the interval is made on the logit scale."""
    x = np.asarray([1.0, *features])
    logit = float(x @ self.coefficients)
    error = math.sqrt(max(0.0, float(x @ self.covariance @ x)))
    low, value, high = (
      0.5 * (1.0 + math.tanh(0.5 * (logit + shift * error)))
      for shift in (-_Z95, 0.0, _Z95)
    )
    return Estimate(value=value, low=low, high=high, n=n, method="logistic")


def fit_logistic(
  features: np.ndarray, targets: np.ndarray, *, ridge: float = 1e-3
) -> LogisticFit:
  """Logistic regression by Newton's method; targets in [0, 1], ties 0.5.

  Args:
    features: [n, k], without the intercept.
    targets: [n].
    ridge: small penalty that keeps separable data finite.
  """
  x = np.column_stack([np.ones(len(features)), features]).astype(np.float64)
  w = np.zeros(x.shape[1])
  penalty = ridge * np.eye(x.shape[1])
  for _ in range(100):
    p = 0.5 * (1.0 + np.tanh(0.5 * (x @ w)))
    hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty
    step = np.linalg.solve(hessian, x.T @ (targets - p) - ridge * w)
    w = w + np.clip(step, -5.0, 5.0)
    if np.abs(step).max() < 1e-10:
      break
  p = 0.5 * (1.0 + np.tanh(0.5 * (x @ w)))
  hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty
  return LogisticFit(coefficients=w, covariance=np.linalg.inv(hessian))
