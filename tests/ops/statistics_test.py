# SPDX-License-Identifier: Apache-2.0
"""Intervals and tests against published or hand-made values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import proportion

from rlaif_jax.ops import statistics


def test_every_interval_holds_its_share():
  """Also of none and of all, whatever rounding does."""
  for n in range(1, 300):
    for successes in (0, n / 2, n):
      found = statistics.wilson(successes, n)
      assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_of_eight_in_ten():
  result = statistics.wilson(8, 10)
  assert result.value == 0.8 and result.n == 10
  np.testing.assert_allclose(
    [result.low, result.high], [0.4901625, 0.9433178], atol=1e-6
  )


def test_wilson_at_the_ends_and_of_nothing():
  assert statistics.wilson(0, 5).low == 0.0
  assert statistics.wilson(5, 5).high == 1.0
  nothing = statistics.wilson(0, 0)
  assert math.isnan(nothing.value) and math.isnan(nothing.low)
  assert nothing.n == 0


def test_wilson_is_statsmodels_and_mirrors():
  for successes, n in [(0, 7), (3, 9), (37, 100), (10.5, 40), (900, 1000)]:
    ours = statistics.wilson(successes, n)
    theirs = proportion.proportion_confint(successes, n, method="wilson")
    np.testing.assert_allclose((ours.low, ours.high), theirs, atol=1e-12)
    mirror = statistics.wilson(n - successes, n)
    assert mirror.low == pytest.approx(1 - ours.high, abs=1e-12)


@pytest.mark.parametrize("successes, n", [(math.nan, 3), (4, 3), (-1, 3)])
def test_wilson_of_what_cannot_be(successes, n):
  with pytest.raises(ValueError, match="must be in"):
    statistics.wilson(successes, n)


def test_mean_interval_by_hand():
  result = statistics.mean([1.0, 2.0, 3.0, 4.0])
  error = math.sqrt(5 / 3 / 4)
  np.testing.assert_allclose(
    [result.low, result.value, result.high],
    [2.5 - 1.959964 * error, 2.5, 2.5 + 1.959964 * error],
    rtol=1e-6,
  )


def test_bootstrap_covers_and_is_repeatable():
  values = np.random.default_rng(0).normal(size=400)
  first, second = (statistics.bootstrap_mean(values) for _ in range(2))
  assert first == second
  normal = statistics.mean(values)
  np.testing.assert_allclose(first.low, normal.low, atol=0.02)
  np.testing.assert_allclose(first.high, normal.high, atol=0.02)
  other = statistics.bootstrap_mean(values, seed=1)
  assert other.value == first.value and other.low != first.low


def test_bootstrap_is_scipys():
  values = np.random.default_rng(3).exponential(size=60)
  ours = statistics.bootstrap_mean(values, resamples=9000)
  theirs = stats.bootstrap(
    (values,), np.mean, n_resamples=9000, method="percentile", random_state=0
  ).confidence_interval
  np.testing.assert_allclose((ours.low, ours.high), theirs, rtol=0.02)


def test_bootstrap_quantiles_in_an_exhaustive_world():
  """Half zeros, half ones: the sum of n draws is binomial(n, 1/2) exactly."""
  estimate = statistics.bootstrap_mean([0.0, 1.0])
  assert (estimate.low, estimate.value, estimate.high) == (0.0, 0.5, 1.0)
  # All four alike weighs 1/16 > 2.5 %; all six 1/64 < 2.5 %, at most one of
  # six 7/64.
  estimate = statistics.bootstrap_mean([0.0, 0.0, 1.0, 1.0], resamples=20_000)
  assert (estimate.low, estimate.high) == (0.0, 1.0)
  estimate = statistics.bootstrap_mean([0.0] * 3 + [1.0] * 3, resamples=20_000)
  assert (estimate.low, estimate.high) == (1 / 6, 5 / 6)


def test_bootstrap_of_a_difference_is_in_pairs():
  generator = np.random.default_rng(0)
  shared = generator.normal(0, 10, 200)
  a, b = shared + generator.normal(1, 0.1, 200), shared
  estimate = statistics.bootstrap_difference(a, b)
  assert estimate.value == pytest.approx(a.mean() - b.mean())
  assert estimate.high - estimate.low < 0.05
  back = statistics.bootstrap_difference(b, a)
  assert back.low == pytest.approx(-estimate.high)
  moved = statistics.bootstrap_difference(a + 7.0, b + 7.0)
  assert moved.low == pytest.approx(estimate.low)


def test_copies_in_a_cluster_add_no_certainty():
  values = np.random.default_rng(0).normal(size=50)
  once = statistics.bootstrap_mean(values)
  copied = np.repeat(values, 4)
  names = [f"context {i:02d}" for i in range(50) for _ in range(4)]
  clustered = statistics.bootstrap_mean(copied, clusters=names)
  assert clustered.low == pytest.approx(once.low)
  assert clustered.high == pytest.approx(once.high)
  assert (clustered.n, clustered.method) == (200, "bootstrap of 50 clusters")
  assumed = statistics.bootstrap_mean(copied)
  assert assumed.high - assumed.low < 0.6 * (clustered.high - clustered.low)


def test_clusters_do_not_depend_on_the_order_of_rows():
  values = np.random.default_rng(0).normal(size=60)
  names = np.repeat(np.arange(12), 5)
  mixed = np.random.default_rng(1).permutation(60)
  a = statistics.bootstrap_mean(values, clusters=names)
  b = statistics.bootstrap_mean(values[mixed], clusters=names[mixed])
  assert (a.low, a.high) == pytest.approx((b.low, b.high))
  c = statistics.bootstrap_difference(values, 0 * values, clusters=names)
  assert (c.low, c.high, c.n) == (a.low, a.high, 60)


def test_bootstrap_of_clusters_of_unequal_size_weighs_rows():
  """One row of 0 and three of 1, in two clusters: 0, 3/4 or 1."""
  estimate = statistics.bootstrap_mean(
    [0.0, 1.0, 1.0, 1.0], clusters=["a", "b", "b", "b"]
  )
  assert (estimate.low, estimate.value, estimate.high) == (0.0, 0.75, 1.0)


def test_bootstrap_of_too_little():
  nothing = statistics.bootstrap_mean([])
  assert nothing.n == 0 and math.isnan(nothing.value)
  one = statistics.bootstrap_mean([2.0])
  assert one.value == 2.0 and math.isnan(one.low)
  same = statistics.bootstrap_mean([2.0, 3.0], clusters=["a", "a"])
  assert same.value == 2.5 and math.isnan(same.high)
  assert math.isnan(statistics.bootstrap_mean([1.0, math.nan]).low)
  assert math.isnan(statistics.bootstrap_difference([], []).value)
  with pytest.raises(ValueError, match="same rows"):
    statistics.bootstrap_difference([1.0], [1.0, 2.0])
  with pytest.raises(ValueError, match="there are 2 rows"):
    statistics.bootstrap_mean([1.0, 2.0], clusters=["a"])


def test_kendalls_w_with_ties_by_hand():
  """Two raters, three things, the first two tied by one rater.

  Ranks (1.5, 1.5, 3) and (1, 2, 3): sums 2.5, 3.5, 6; S = 6.5; T = 6, so that
  W = 12 * 6.5 / (4 * 24 - 2 * 6) = 78 / 84.
  """
  w = statistics.kendalls_w(np.array([[1.5, 1.5, 3], [1, 2, 3]]))
  assert w == pytest.approx(78 / 84)
  # Ties ranked 1, 1, 3, or scores of any scale, are the same order.
  assert statistics.kendalls_w(np.array([[1, 1, 3], [-9, 0, 4]])) == w


def test_kendalls_w_of_raters_who_guess_is_one_over_their_number():
  """All 6^3 ways in which three raters can rank three things."""
  orders = list(itertools.permutations(range(3)))
  found = [
    statistics.kendalls_w(np.array(three))
    for three in itertools.product(orders, repeat=3)
  ]
  assert np.mean(found) == pytest.approx(1 / 3)


def test_kendalls_w_does_not_depend_on_who_or_what_comes_first():
  ranks = np.random.default_rng(0).normal(size=(4, 6))
  expected = statistics.kendalls_w(ranks)
  assert statistics.kendalls_w(ranks[[2, 0, 3, 1]]) == pytest.approx(expected)
  assert statistics.kendalls_w(ranks[:, ::-1]) == pytest.approx(expected)


def test_kendalls_w_of_too_little():
  for ranks in ([[1, 2, 3]], [[1], [1]], [[2, 2], [5, 5]]):
    assert math.isnan(statistics.kendalls_w(np.array(ranks)))
  with pytest.raises(ValueError, match="row 0 did not rank all 2"):
    statistics.kendalls_w(np.array([[math.nan, 1], [1, 2]]))


def test_kendalls_w():
  same = np.array([[1, 2, 3]] * 4)
  assert statistics.kendalls_w(same) == pytest.approx(1.0)
  against = np.array([[1, 2, 3], [3, 2, 1]])
  assert statistics.kendalls_w(against) == pytest.approx(0.0)


def test_a_ratio_is_divided_once_and_its_interval_covers():
  estimate = statistics.ratio([2.0, 9.0], [1.0, 3.0])
  assert estimate.value == 11 / 4 and estimate.n == 2
  # Rows of one size: the ratio is a mean, and so is its interval.
  values = np.random.default_rng(0).normal(3.0, 1.0, 50)
  a, b = statistics.ratio(2 * values, np.full(50, 2.0)), statistics.mean(values)
  np.testing.assert_allclose((a.low, a.high), (b.low, b.high), rtol=1e-9)
  assert math.isnan(statistics.ratio([], []).value)


def test_the_normal_quantile_is_scipys():
  assert statistics.Z95 == stats.norm.ppf(0.975)


def test_expit_by_hand():
  x = np.asarray([-800.0, -1.0, 0.0, 2.0])
  expected = [0.0, 1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-2.0))]
  np.testing.assert_allclose(statistics.expit(x), expected, rtol=1e-12)
