# SPDX-License-Identifier: Apache-2.0
"""Intervals and tests against published or hand-made values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlaif_jax.ops import statistics


def test_wilson_of_eight_in_ten():
  result = statistics.wilson(8, 10)
  assert result.value == 0.8 and result.n == 10
  np.testing.assert_allclose(
    [result.low, result.high], [0.4901625, 0.9433178], atol=1e-6
  )


def test_wilson_at_the_ends_and_of_nothing():
  assert statistics.wilson(0, 5).low == 0.0
  assert statistics.wilson(5, 5).high == 1.0
  assert math.isnan(statistics.wilson(0, 0).value)


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


@pytest.mark.parametrize(
  "successes, n, expected",
  [(8, 10, 112 / 1024), (5, 10, 1.0), (0, 4, 2 / 16), (0, 0, 1.0)],
)
def test_binomial_test_by_counting(successes, n, expected):
  result = statistics.binomial_test(successes, n)
  np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_kendalls_w():
  same = np.array([[1, 2, 3]] * 4)
  assert statistics.kendalls_w(same) == pytest.approx(1.0)
  against = np.array([[1, 2, 3], [3, 2, 1]])
  assert statistics.kendalls_w(against) == pytest.approx(0.0)


def test_logistic_fit_finds_the_coefficients():
  generator = np.random.default_rng(0)
  x = generator.normal(size=(20_000, 1))
  p = 1 / (1 + np.exp(-(0.3 + 1.2 * x[:, 0])))
  targets = (generator.random(20_000) < p).astype(float)
  fit = statistics.fit_logistic(x, targets)
  np.testing.assert_allclose(fit.coefficients, [0.3, 1.2], atol=0.06)
  at_zero = fit.at([0.0], 20_000)
  assert at_zero.low < 1 / (1 + math.exp(-0.3)) < at_zero.high
  assert at_zero.high - at_zero.low < 0.03


def test_separable_data_stays_finite():
  fit = statistics.fit_logistic(
    np.array([[-1.0], [1.0]] * 10), np.array([0.0, 1.0] * 10)
  )
  assert np.isfinite(fit.coefficients).all()


def test_a_ratio_is_divided_once_and_its_interval_covers():
  estimate = statistics.ratio([2.0, 9.0], [1.0, 3.0])
  assert estimate.value == 11 / 4 and estimate.n == 2
  # Rows of one size: the ratio is a mean, and so is its interval.
  values = np.random.default_rng(0).normal(3.0, 1.0, 50)
  a, b = statistics.ratio(2 * values, np.full(50, 2.0)), statistics.mean(values)
  np.testing.assert_allclose((a.low, a.high), (b.low, b.high), rtol=1e-9)
  assert math.isnan(statistics.ratio([], []).value)
