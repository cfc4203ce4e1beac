# SPDX-License-Identifier: Apache-2.0
"""Distributions against SciPy over grids, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special
from scipy import stats

from rlaif_jax.ops import distributions

# SciPy's own t of 1 degree of freedom is off by 2e-9 nearer to 0 than 1e-6.
_TS = np.concatenate([-np.logspace(4, -6, 41), [0.0], np.logspace(-6, 4, 41)])


@pytest.mark.parametrize(
  "df", [0.3, 1, 1.5, 2, 3.7, 10, 39, 40, 41, 999.9, 1e4, 1e6, 3e7]
)
def test_student_t_is_scipys(df):
  ours = np.asarray([distributions.student_t_cdf(t, df) for t in _TS])
  theirs = stats.t.cdf(_TS, df)
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
  # Small tails keep their relative precision.
  seen = (theirs > 1e-250) & (theirs < 0.5)
  np.testing.assert_allclose(ours[seen], theirs[seen], rtol=1e-9)


def test_student_t_of_one_and_two_degrees_has_closed_forms():
  for t in _TS:
    cauchy = 0.5 + math.atan(t) / math.pi
    two = 0.5 + 0.5 * t / math.sqrt(2 + t * t)
    assert distributions.student_t_cdf(t, 1) == pytest.approx(cauchy, abs=1e-14)
    assert distributions.student_t_cdf(t, 2) == pytest.approx(two, abs=1e-14)


def test_student_t_is_symmetric_and_ends_at_0_and_1():
  for t in (0.0, 0.4, 3.0, 80.0):
    total = distributions.student_t_cdf(t, 7) + distributions.student_t_cdf(
      -t, 7
    )
    assert total == pytest.approx(1.0, abs=1e-15)
  assert distributions.student_t_cdf(math.inf, 3) == 1.0
  assert distributions.student_t_cdf(-math.inf, 3) == 0.0
  assert math.isnan(distributions.student_t_cdf(math.nan, 3))
  assert math.isnan(distributions.student_t_cdf(1.0, 0.0))


def test_quantile_is_the_inverse():
  for df in (1.0, 2.5, 30.0, 1e5):
    for p in (0.5, 0.8, 0.975, 0.9999):
      t = distributions.student_t_quantile(p, df)
      assert t == pytest.approx(stats.t.ppf(p, df), rel=1e-9, abs=1e-11)
  with pytest.raises(ValueError, match="p is 0.4"):
    distributions.student_t_quantile(0.4, 3)


@pytest.mark.parametrize("df", [1, 2, 3, 7.5, 100, 999, 40_000])
def test_chi_square_is_scipys(df):
  xs = np.concatenate(
    [[0.0], np.logspace(-6, 5, 60), df * np.linspace(0.5, 1.5, 41)]
  )
  ours = np.asarray([distributions.chi_square_sf(x, df) for x in xs])
  theirs = stats.chi2.sf(xs, df)
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
  seen = theirs > 1e-250
  np.testing.assert_allclose(ours[seen], theirs[seen], rtol=1e-9)


def test_chi_square_of_two_degrees_is_an_exponential():
  for x in (0.0, 0.3, 5.0, 90.0):
    expected = math.exp(-x / 2)
    assert distributions.chi_square_sf(x, 2) == pytest.approx(expected)
  assert distributions.chi_square_sf(math.inf, 2) == 0.0
  assert math.isnan(distributions.chi_square_sf(math.nan, 2))
  assert math.isnan(distributions.chi_square_sf(1.0, 0))


@pytest.mark.parametrize("a", [0.5, 1, 2.5, 19, 50, 1000])
def test_incomplete_beta_is_scipys_and_has_its_mirror_image(a):
  for b in (0.5, 3.0, 21.0, 300.0):
    for x in np.linspace(0, 1, 21):
      ours = distributions.incomplete_beta(a, b, x, 1 - x)
      assert ours == pytest.approx(special.betainc(a, b, x), abs=1e-12)
      mirror = 1 - distributions.incomplete_beta(b, a, 1 - x, x)
      assert ours == pytest.approx(mirror, abs=1e-12)


def test_incomplete_beta_reads_what_x_lacks_to_one():
  """1 - 1e-20 is 1; the tail of 1e-20 is not 0."""
  ours = 1.0 - distributions.incomplete_beta(0.5, 2.0, 1.0, 1e-20)
  tail = distributions.incomplete_beta(2.0, 0.5, 1e-20, 1.0)
  assert ours == 0.0
  assert tail == pytest.approx(special.betainc(2.0, 0.5, 1e-20), rel=1e-12)


def test_incomplete_beta_of_one_large_parameter():
  """Log-gammas of 5e7 and more cancel; either parameter may be the large."""
  for x in (1e-9, 1e-8, 5e-8):
    expected = special.betainc(0.5, 5e7, x)
    ours = distributions.incomplete_beta(0.5, 5e7, x, 1 - x)
    mirror = 1 - distributions.incomplete_beta(5e7, 0.5, 1 - x, x)
    assert ours == pytest.approx(expected, rel=1e-10)
    assert mirror == pytest.approx(expected, rel=1e-10)


def test_incomplete_gamma_is_scipys():
  for a in (0.5, 1.0, 4.5, 200.0):
    for x in (0.0, 0.01, 1.0, a, a + 1, a + 5, 3 * a + 20):
      ours = distributions.incomplete_gamma_upper(a, x)
      assert ours == pytest.approx(special.gammaincc(a, x), rel=1e-10)
