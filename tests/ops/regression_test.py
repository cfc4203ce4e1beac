# SPDX-License-Identifier: Apache-2.0
"""Logistic regression against statsmodels, and at its corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api

from rlaif_jax.ops import regression


def simulated(n=400, seed=0):
  generator = np.random.default_rng(seed)
  x = generator.normal(size=(n, 2)) * [1.0, 4.0] + [1.0, -2.0]
  logits = 0.8 * x[:, 0] - 0.1 * x[:, 1] - 0.9
  return x, (generator.random(n) < 1 / (1 + np.exp(-logits))).astype(float)


def theirs(x, y, **options):
  model = statsmodels.api.Logit(y, statsmodels.api.add_constant(x))
  return model.fit(disp=0, method="newton", tol=1e-14, **options)


def test_coefficients_and_covariance_are_statsmodels():
  x, y = simulated()
  fit, expected = regression.fit_logistic(x, y, ridge=1e-9), theirs(x, y)
  np.testing.assert_allclose(fit.coefficients, expected.params, atol=1e-8)
  np.testing.assert_allclose(fit.covariance, expected.cov_params(), atol=1e-9)


def test_the_sandwich_is_statsmodels():
  x, y = simulated()
  clusters = np.repeat(np.arange(100), 4)
  scale = {100: 100 / 99, 400: 400 / 399}
  options = {"cov_type": "cluster", "cov_kwds": {"use_correction": False}}
  for names in (clusters, np.arange(400)):
    options["cov_kwds"]["groups"] = names
    expected = theirs(x, y, **options).cov_params() * scale[len(set(names))]
    fit = regression.fit_logistic(x, y, ridge=1e-9, clusters=names)
    np.testing.assert_allclose(fit.covariance, expected, rtol=1e-6)


def test_the_interval_is_the_delta_methods():
  x, y = simulated()
  estimate = regression.fit_logistic(x, y, ridge=1e-9).at([0.5, -1.0], 400)
  low, high = theirs(x, y).t_test(np.array([[1.0, 0.5, -1.0]])).conf_int()[0]
  expected = [1 / (1 + math.exp(-v)) for v in (low, high)]
  np.testing.assert_allclose([estimate.low, estimate.high], expected, rtol=1e-7)
  assert (estimate.n, estimate.method) == (400, "logistic")


def test_shares_are_fitted_and_their_interval_narrows():
  """Soft labels near 0.7 vary less than coins of 0.7 do."""
  generator = np.random.default_rng(1)
  x = generator.normal(size=(200, 1))
  y = np.clip(0.7 + 0.02 * generator.normal(size=200), 0, 1)
  coins = regression.fit_logistic(x, y).at([0.0], 200)
  shares = regression.fit_logistic(x, y, clusters=np.arange(200)).at([0.0], 200)
  assert shares.value == coins.value == pytest.approx(0.7, abs=0.01)
  assert shares.high - shares.low < 0.1 * (coins.high - coins.low)
  error = 0.02 / math.sqrt(200)
  assert shares.high - shares.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_copies_of_rows_do_not_narrow_a_clusters_interval():
  x, y = simulated()
  once = regression.fit_logistic(x, y, clusters=np.arange(400))
  thrice = regression.fit_logistic(
    np.repeat(x, 3, axis=0),
    np.repeat(y, 3),
    clusters=np.repeat(np.arange(400), 3),
  )
  np.testing.assert_allclose(thrice.covariance, once.covariance, rtol=1e-3)


def test_the_order_of_rows_and_the_names_of_clusters_do_not_matter():
  x, y = simulated()
  clusters = np.repeat(np.arange(100), 4)
  fit = regression.fit_logistic(x, y, clusters=clusters)
  mixed = np.random.default_rng(2).permutation(400)
  names = [f"context {c}" for c in clusters[mixed]]
  other = regression.fit_logistic(x[mixed], y[mixed], clusters=names)
  np.testing.assert_allclose(other.coefficients, fit.coefficients, rtol=1e-9)
  np.testing.assert_allclose(other.covariance, fit.covariance, rtol=1e-9)


def test_a_shift_of_a_feature_moves_only_the_intercept():
  """The penalty does not depend on where a feature's zero is."""
  x, y = simulated()
  fit = regression.fit_logistic(x, y, ridge=1.0)
  moved = regression.fit_logistic(x + [50.0, 0.0], y, ridge=1.0)
  np.testing.assert_allclose(moved.coefficients[1:], fit.coefficients[1:])
  a, b = fit.at([1.0, 0.0], 400), moved.at([51.0, 0.0], 400)
  assert (a.value, a.low) == pytest.approx((b.value, b.low))


def test_a_feature_that_never_varies_leaves_the_mean():
  y = np.array([1.0] * 30 + [0.0] * 20)
  for clusters in (None, np.arange(50)):
    fit = regression.fit_logistic(np.full((50, 1), 2.0), y, clusters=clusters)
    seen, unseen = fit.at([2.0], 50), fit.at([1.0], 50)
    assert seen.value == pytest.approx(0.6, abs=1e-9)
    assert unseen.value == pytest.approx(0.6, abs=1e-9)
    # At 2 it is the usual interval of a share on the logit scale; away from
    # all that was seen, anything is possible.
    error = 1.959964 / math.sqrt(50 * 0.24)
    low = 1 / (1 + math.exp(error) * 20 / 30)
    assert seen.low == pytest.approx(low, rel=0.01)
    assert unseen.low < 0.01 and unseen.high > 0.99


def test_outcomes_that_are_all_alike_keep_a_useful_interval():
  """Wald's interval would be [0, 1]; the likelihood's is about Wilson's."""
  x = np.random.default_rng(0).normal(size=(64, 1))
  won = regression.fit_logistic(x, np.ones(64)).at([0.0], 64)
  lost = regression.fit_logistic(x, np.zeros(64)).at([0.0], 64)
  assert won.value == pytest.approx(1.0, abs=1e-6) and won.high == 1.0
  assert 0.90 < won.low < 0.975
  assert lost.high == pytest.approx(1 - won.low, abs=1e-6)
  # Without a feature that matters: log-likelihood 64 log p = -1.92.
  flat = regression.fit_logistic(np.zeros((64, 1)), np.ones(64)).at([0.0], 64)
  assert flat.low == pytest.approx(math.exp(-1.920729 / 64), abs=1e-6)


def test_raters_of_one_context_do_not_narrow_outcomes_that_are_all_alike():
  x = np.random.default_rng(0).normal(size=(32, 1))
  once = regression.fit_logistic(x, np.ones(32)).at([0.0], 32)
  thrice = regression.fit_logistic(
    np.repeat(x, 3, axis=0), np.ones(96), clusters=np.repeat(np.arange(32), 3)
  ).at([0.0], 96)
  assert thrice.low == pytest.approx(once.low, abs=2e-3)


@pytest.mark.parametrize("clusters", [None, range(20)])
def test_separable_data_stays_finite(clusters):
  fit = regression.fit_logistic(
    np.array([[-1.0], [1.0]] * 10), np.array([0.0, 1.0] * 10), clusters=clusters
  )
  assert np.isfinite(fit.coefficients).all()
  middle, right = fit.at([0.0], 20), fit.at([1.0], 20)
  assert middle.value == pytest.approx(0.5)
  assert middle.low < 0.1 and middle.high > 0.9
  assert right.value > 0.99 and 0.6 < right.low < 0.99


def test_an_outlier_does_not_throw_newton_off():
  x = np.array([[1.0 + 0.01 * i] for i in range(49)] + [[300.0]])
  y = np.array([0.0] * 20 + [1.0] * 30)
  fit = regression.fit_logistic(x, y)
  p = 1 / (1 + np.exp(-(fit.coefficients[0] + x[:, 0] * fit.coefficients[1])))
  # The score equations hold: the fit is the maximum.
  slope = np.array([(y - p).sum(), ((y - p) * x[:, 0]).sum()])
  np.testing.assert_allclose(slope[0], 0.0, atol=1e-5)
  np.testing.assert_allclose(slope[1], 1e-3 * fit.coefficients[1], atol=1e-4)


def test_one_cluster_shows_no_spread():
  x, y = simulated(40)
  estimate = regression.fit_logistic(x, y, clusters=["only"] * 40).at([0, 0], 1)
  assert math.isfinite(estimate.value) and math.isnan(estimate.low)


def test_logistic_fit_finds_the_coefficients():
  generator = np.random.default_rng(0)
  x = generator.normal(size=(20_000, 1))
  p = 1 / (1 + np.exp(-(0.3 + 1.2 * x[:, 0])))
  targets = (generator.random(20_000) < p).astype(float)
  fit = regression.fit_logistic(x, targets)
  np.testing.assert_allclose(fit.coefficients, [0.3, 1.2], atol=0.06)
  at_zero = fit.at([0.0], 20_000)
  assert at_zero.low < 1 / (1 + math.exp(-0.3)) < at_zero.high
  assert at_zero.high - at_zero.low < 0.03


@pytest.mark.parametrize(
  "features, targets, ridge, message",
  [
    (np.ones((2, 1)), np.array([0.0, math.nan]), 1e-3, "1 targets are not in"),
    (np.ones((2, 1)), np.array([0.0, 1.5]), 1e-3, "1 targets are not in"),
    (np.full((2, 1), np.inf), np.zeros(2), 1e-3, "2 features are not finite"),
    (np.ones((0, 1)), np.zeros(0), 1e-3, "n of at least 1"),
    (np.ones(2), np.zeros(2), 1e-3, r"must be \[n, k\]"),
    (np.ones((2, 1)), np.zeros(2), 0.0, "ridge is 0.0"),
  ],
)
def test_what_cannot_be_fitted_is_named(features, targets, ridge, message):
  with pytest.raises(ValueError, match=message):
    regression.fit_logistic(features, targets, ridge=ridge)
