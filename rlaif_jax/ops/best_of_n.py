# SPDX-License-Identifier: Apache-2.0
"""Best of n by a proxy: unbiased estimate and KL, in numpy."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Shaped


def weights(total: int, n: int) -> Float[np.ndarray, " total"]:
  """Returns P(the i-th lowest of `total` is the best of n): [total].

      C(i - 1, n - 1) / C(total, n), i = 1 .. total

  It averages over all subsets of n out of N samples (arXiv:2112.09332,
  appendix I; arXiv:2310.02743).

  Raises:
    ValueError: n is not in [1, total].
  """
  if not 1 <= n <= total:
    raise ValueError(f"best of n: n is {n}; it must be in [1, {total}]")
  result = np.zeros(total)
  log_all = _log_choose(total, n)
  for i in range(n, total + 1):
    result[i - 1] = math.exp(_log_choose(i - 1, n - 1) - log_all)
  return result


def estimate(
  proxy: Float[np.ndarray, "P N"], values: Shaped[np.ndarray, "P N"], n: int
) -> Float[np.ndarray, " P"]:
  """Returns the mean of `values` for the best of n by `proxy`.

  Samples with equal proxy share their weights.
  """
  order = np.argsort(proxy, axis=1, kind="stable")
  sorted_proxy = np.take_along_axis(proxy, order, axis=1)
  sorted_values = np.take_along_axis(values, order, axis=1).astype(float)
  w = weights(proxy.shape[1], n)
  result = np.empty(len(proxy))
  for p, (keys, row) in enumerate(zip(sorted_proxy, sorted_values)):
    _, start = np.unique(keys, return_index=True)
    count = np.diff([*start, len(keys)])
    means = np.add.reduceat(row, start) / count
    result[p] = np.add.reduceat(w, start) @ means
  return result


def kl(n: int) -> float:
  """Returns log n - (n - 1) / n, a bound of KL(best of n || policy) in nats.

  It is exact if no two samples tie (arXiv:2401.01879).
  """
  return math.log(n) - (n - 1) / n


def _log_choose(n: int, k: int) -> float:
  return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
