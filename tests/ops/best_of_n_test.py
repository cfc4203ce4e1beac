# SPDX-License-Identifier: Apache-2.0
"""The unbiased estimate against all subsets, and the KL against a sum."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rlaif_jax.ops import best_of_n


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_it_is_the_mean_over_all_subsets(n):
  generator = np.random.default_rng(0)
  proxy, values = generator.normal(size=(2, 3, 6))
  expected = [
    np.mean(
      [
        values[p][max(subset, key=lambda i: proxy[p][i])]
        for subset in itertools.combinations(range(6), n)
      ]
    )
    for p in range(3)
  ]
  np.testing.assert_allclose(best_of_n.estimate(proxy, values, n), expected)


def test_samples_that_tie_share_their_weight():
  """Whatever their order: each of them is the best equally often."""
  proxy = np.array([[1.0, 1.0, 0.0, 1.0]])
  values = np.array([[3.0, 6.0, 100.0, 9.0]])
  for order in itertools.permutations(range(4)):
    result = best_of_n.estimate(proxy[:, order], values[:, order], 2)
    np.testing.assert_allclose(result, [6.0])


def test_weights_sum_to_one_however_many_samples():
  for total, n in ((1, 1), (5, 5), (4096, 1000)):
    np.testing.assert_allclose(best_of_n.weights(total, n).sum(), 1.0)


def test_kl_is_that_of_the_best_of_n_among_many_values():
  """P(value i of N is chosen) = (i/N)^n - ((i-1)/N)^n against 1/N."""
  grid = np.arange(200_001) / 200_000
  for n in (1, 4, 64):
    chosen = np.diff(grid**n)
    chosen = chosen[chosen > 0]
    exact = np.sum(chosen * np.log(chosen * 200_000))
    assert math.isclose(best_of_n.kl(n), exact, abs_tol=1e-3)


def test_a_bad_n_is_named():
  with pytest.raises(ValueError, match=r"n is 7.*\[1, 6\]"):
    best_of_n.weights(6, 7)
