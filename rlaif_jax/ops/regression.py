# SPDX-License-Identifier: Apache-2.0
"""Logistic regression with intervals, for win rates at equal length.

SciPy has none. The optimum is found to rounding by Newton's method.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Callable, Hashable, Sequence

from jaxtyping import Float
import numpy as np

from rlaif_jax.ops import statistics

# Ridge of the intercept relative to that of the slopes; it keeps it finite.
_INTERCEPT_RIDGE = 1e-6
# Largest logit of an interval; the sigmoid of it is 0 or 1.
_FAR = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticFit:
  """Coefficients (intercept first) and their covariance.

  `profile` is set if the data is separable, where the covariance is no
  interval: (features, logit) -> logits of the interval.
  """

  coefficients: np.ndarray
  covariance: np.ndarray
  profile: Callable[[np.ndarray, float], tuple[float, float]] | None = None

  def at(self, features: Sequence[float], n: int) -> statistics.Estimate:
    """Returns the predicted probability, with an interval of the logit.

    The interval is the delta method's: the logit's standard error is the root
    of x' covariance x. If the outcomes are all equal or the data is separable,
    it is the profile likelihood's: logits within 1.92 of the maximum (Venzon
    and Moolgavkar 1988).
    """
    x = np.asarray([1.0, *features])
    logit = float(x @ self.coefficients)
    if self.profile is None:
      error = math.sqrt(np.maximum(0.0, x @ self.covariance @ x))
      ends = logit - statistics.Z95 * error, logit + statistics.Z95 * error
    else:
      ends = self.profile(x[1:], logit)
    low, value, high = statistics.expit([ends[0], logit, ends[1]]).tolist()
    return statistics.Estimate(
      value=value, low=low, high=high, n=n, method="logistic"
    )


def fit_logistic(
  features: Float[np.ndarray, "n k"],
  targets: Float[np.ndarray, " n"],
  *,
  ridge: float = 1e-3,
  clusters: Sequence[Hashable] | None = None,
) -> LogisticFit:
  """Fits a logistic regression by Newton's method; ties are targets of 0.5.

  The penalty is `ridge` times half the squared slopes; the intercept at the
  mean of the features has a millionth of it. A constant feature has slope 0,
  and the prediction is then the mean of the targets.

  The covariance is the inverse information of the model. It is valid for
  independent outcomes of 0 and 1; it is too wide for ties and soft labels,
  which vary less. With `clusters` it is the sandwich estimate (Liang and Zeger
  1986; Papke and Wooldridge 1996 for proportions), valid for outcomes in
  [0, 1] and several rows of one context, times G / (G - 1) for G clusters; NaN
  for one cluster.

  Args:
    features: [n, k], without the intercept.
    targets: [n].
    ridge: small penalty that keeps separable data finite.
    clusters: [n] cluster name of each row; unique names give the sandwich
      for independent rows.

  Raises:
    ValueError: no rows, values that are not finite, targets outside of [0, 1],
      or a ridge that is not positive.
  """
  features = np.asarray(features, np.float64)
  targets = np.asarray(targets, np.float64)
  _check(features, targets, ridge)
  centre = features.mean(axis=0)
  x = np.column_stack([np.ones(len(features)), features - centre])
  penalty = np.full(x.shape[1], float(ridge))
  penalty[0] *= _INTERCEPT_RIDGE
  w = _newton(x, targets, penalty)
  logits = x @ w
  covariance = np.linalg.inv(_information(x, logits, penalty))
  rows_a_group = 1.0
  if clusters is not None:
    scores = statistics.grouped_sums(
      x * _residuals(logits, targets)[:, None], clusters
    )
    groups = len(scores)
    rows_a_group = len(targets) / groups
    # One cluster has no variance: NaN. The penalty bounds the variance of a
    # slope that the features do not determine.
    scale = groups / (groups - 1) if groups > 1 else float("nan")
    meat = scores.T @ scores * scale + np.diag(penalty)
    covariance = covariance @ meat @ covariance
  # Undo the centring of the features.
  back = np.eye(len(w))
  back[0, 1:] = -centre
  profile = None
  if _separates(logits, targets):
    profile = _profile(features, targets, penalty[1:], rows_a_group)
  return LogisticFit(
    coefficients=back @ w,
    covariance=back @ covariance @ back.T,
    profile=profile,
  )


def _check(features: np.ndarray, targets: np.ndarray, ridge: float) -> None:
  n = len(targets)
  if features.ndim != 2 or targets.ndim != 1 or len(features) != n or not n:
    raise ValueError(
      f"fit_logistic: features are {features.shape} and targets "
      f"{targets.shape}; they must be [n, k] and [n] with n of at least 1"
    )
  bad = int((~np.isfinite(features)).sum())
  outside = int((~((targets >= 0) & (targets <= 1))).sum())
  if bad or outside:
    raise ValueError(
      f"fit_logistic: {bad} features are not finite and {outside} targets are "
      "not in [0, 1]; leave out the rows that have no answer, and count them"
    )
  if not ridge > 0:
    raise ValueError(
      f"fit_logistic: ridge is {ridge!r}; it must be positive, since "
      "separable data have no finite fit without it; 1e-9 hardly shows"
    )


def _residuals(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
  return targets * statistics.expit(-logits) - (1 - targets) * statistics.expit(
    logits
  )


def _information(
  x: np.ndarray, logits: np.ndarray, penalty: np.ndarray
) -> np.ndarray:
  spread = statistics.expit(logits) * statistics.expit(-logits)
  return (x * spread[:, None]).T @ x + np.diag(penalty)


def _loss(
  logits: np.ndarray, targets: np.ndarray, penalty: np.ndarray, w: np.ndarray
) -> float:
  likelihood = targets * logits - np.logaddexp(0.0, logits)
  return float(0.5 * (penalty * w * w).sum() - likelihood.sum())


def _newton(
  x: np.ndarray, targets: np.ndarray, penalty: np.ndarray, offset: float = 0.0
) -> np.ndarray:
  """Minimises the penalised loss; halves steps that increase it."""
  w = np.zeros(x.shape[1])
  loss = _loss(offset + x @ w, targets, penalty, w)
  for _ in range(200):
    logits = offset + x @ w
    slope = x.T @ _residuals(logits, targets) - penalty * w
    step = np.linalg.solve(_information(x, logits, penalty), slope)
    most = loss + 1e-12 * (1 + abs(loss))
    while True:
      new = _loss(offset + x @ (w + step), targets, penalty, w + step)
      if new <= most:
        break
      step = 0.5 * step
    w, loss = w + step, new
    if np.abs(step).max() < 1e-10 * (1 + np.abs(w).max()):
      return w
  raise AssertionError(f"Newton's method has not converged; last step {step}")


def _separates(logits: np.ndarray, targets: np.ndarray) -> bool:
  """Returns whether the fit separates targets of 0 and 1."""
  hard = (targets == 0) | (targets == 1)
  return bool((hard & ((logits > 0) == (targets > 0.5))).all())


def _profile(
  features: np.ndarray,
  targets: np.ndarray,
  penalty: np.ndarray,
  rows_a_group: float,
) -> Callable[[np.ndarray, float], tuple[float, float]]:
  """Returns the profile likelihood interval; a cluster counts as one row."""
  from scipy import optimize  # It takes long to import.

  allowed = 0.5 * statistics.Z95**2 * rows_a_group

  def ends(at: np.ndarray, logit: float) -> tuple[float, float]:
    x = features - at

    def loss(end: float) -> float:
      w = _newton(x, targets, penalty, end)
      return _loss(end + x @ w, targets, penalty, w)

    most = loss(logit) + allowed

    def end(far: float) -> float:
      if loss(far) <= most:
        return far
      return optimize.brentq(lambda z: loss(z) - most, logit, far)

    return end(min(-_FAR, logit)), end(max(_FAR, logit))

  return ends
