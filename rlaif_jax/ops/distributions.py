# SPDX-License-Identifier: Apache-2.0
"""Student's t and chi-square, by the incomplete beta and gamma functions.

For single numbers, in plain Python, so that reports need no SciPy.
"""

from __future__ import annotations

import math

# Continued fractions need about the root of their largest parameter in steps.
_STEPS = 200_000
_SMALL = 1e-300
_EPSILON = 1e-16


def student_t_cdf(t: float, df: float) -> float:
  """P(T <= t) of Student's t with df > 0 degrees of freedom.

  By I_x(df/2, 1/2) at x = df / (df + t^2) (DLMF 8.17; Abramowitz and Stegun
  26.7.1). Small tails keep their relative precision.
  """
  if math.isnan(t) or not df > 0:
    return float("nan")
  square = t * t
  if math.isinf(square):
    tail = 0.0
  else:
    whole = df + square
    tail = 0.5 * incomplete_beta(0.5 * df, 0.5, df / whole, square / whole)
  return tail if t < 0 else 1.0 - tail


def student_t_quantile(p: float, df: float) -> float:
  """The t with P(T <= t) = p, for p in [0.5, 1), by bisection.

  Raises:
    ValueError: p outside of [0.5, 1) or df not positive.
  """
  if not 0.5 <= p < 1 or not df > 0:
    raise ValueError(
      f"student_t_quantile: p is {p!r} and df is {df!r}; p must be in "
      "[0.5, 1) (the rest is its mirror image) and df positive"
    )
  low, high = 0.0, 1.0
  while student_t_cdf(high, df) < p:
    low, high = high, 2 * high
  while high - low > 1e-12 * high:
    middle = 0.5 * (low + high)
    if middle in (low, high):
      break
    if student_t_cdf(middle, df) < p:
      low = middle
    else:
      high = middle
  return 0.5 * (low + high)


def chi_square_sf(x: float, df: float) -> float:
  """P(X > x) of chi-square with df > 0 degrees of freedom: Q(df/2, x/2)."""
  if math.isnan(x) or not df > 0:
    return float("nan")
  return incomplete_gamma_upper(0.5 * df, 0.5 * max(x, 0.0))


def incomplete_beta(a: float, b: float, x: float, y: float) -> float:
  """Regularized incomplete beta I_x(a, b), by the fraction of DLMF 8.17.22.

  Args:
    a: positive.
    b: positive.
    x: in [0, 1].
    y: 1 - x, which callers often know more precisely than it can be computed.
  """
  if x <= 0 or y <= 0:
    return 0.0 if x <= 0 else 1.0
  # log x, where x is near 1, from what it lacks to 1.
  log_x = math.log(x) if x < 0.5 else math.log1p(-y)
  log_y = math.log(y) if y < 0.5 else math.log1p(-x)
  front = math.exp(a * log_x + b * log_y - _log_beta(a, b))
  if x < (a + 1) / (a + b + 2):
    return front / (a * _beta_fraction(a, b, x))
  return 1.0 - front / (b * _beta_fraction(b, a, y))


def _beta_fraction(a: float, b: float, x: float) -> float:
  """1 + d_1 / (1 + d_2 / (1 + ...)), by Lentz's method."""
  value, c, d = 1.0, 1.0, 0.0
  for step in range(1, _STEPS):
    m = step // 2
    if step % 2:
      part = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    else:
      part = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
    d = 1.0 / _not_zero(1.0 + part * d)
    c = _not_zero(1.0 + part / c)
    value *= c * d
    if abs(c * d - 1.0) < 2 * _EPSILON:
      return value
  raise AssertionError(f"no convergence at a={a}, b={b}, x={x}")


def _log_beta(a: float, b: float) -> float:
  """log B(a, b), without the cancellation of two large log-gammas."""
  a, b = max(a, b), min(a, b)
  if a < 20:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
  # log Gamma(a) - log Gamma(a + b), by Stirling's series for each (DLMF
  # 5.11.1), with the large terms put together first.
  gap = b - (a - 0.5) * math.log1p(b / a) - b * math.log(a + b)
  return math.lgamma(b) + gap + _stirling(a) - _stirling(a + b)


def _stirling(z: float) -> float:
  """What Stirling's formula lacks to log Gamma(z), for z of 20 and more."""
  w = 1.0 / (z * z)
  return (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w * (1 / 1680)))) / z


def incomplete_gamma_upper(a: float, x: float) -> float:
  """Regularized upper incomplete gamma Q(a, x) for a > 0, x >= 0.

  The series of DLMF 8.7.1 below a + 1, the fraction of 8.9.2 above.
  """
  if x <= 0:
    return 1.0
  if math.isinf(x):
    return 0.0
  front = math.exp(a * math.log(x) - x - math.lgamma(a))
  if x < a + 1:
    term = total = 1.0 / a
    n = a
    while term > _EPSILON * total:
      n += 1
      term *= x / n
      total += term
    return 1.0 - front * total
  b = x + 1 - a
  c, d = 1.0 / _SMALL, 1.0 / _not_zero(b)
  value = d
  for n in range(1, _STEPS):
    part = -n * (n - a)
    b += 2
    d = 1.0 / _not_zero(part * d + b)
    c = _not_zero(b + part / c)
    value *= c * d
    if abs(c * d - 1.0) < 2 * _EPSILON:
      return front * value
  raise AssertionError(f"no convergence at a={a}, x={x}")


def _not_zero(x: float) -> float:
  return x if abs(x) > _SMALL else _SMALL
