# SPDX-License-Identifier: Apache-2.0
"""Tests of hypotheses against SciPy and statsmodels, and their symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables

from rlaif_jax.ops import hypothesis

ALTERNATIVES = ("two-sided", "greater", "less")
MIRROR = {"two-sided": "two-sided", "greater": "less", "less": "greater"}


@pytest.mark.parametrize(
  "successes, n, expected",
  [(8, 10, 112 / 1024), (5, 10, 1.0), (0, 4, 2 / 16), (0, 0, 1.0)],
)
def test_binomial_by_counting(successes, n, expected):
  result = hypothesis.binomial(successes, n).p_value
  np.testing.assert_allclose(result, expected, rtol=1e-9)


def samples(n=40, m=25, seed=0):
  generator = np.random.default_rng(seed)
  return generator.normal(0.4, 1.0, n), generator.normal(0.0, 2.0, m)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_binomial_is_scipys(alternative):
  for successes, n, p in [(8, 10, 0.5), (0, 4, 0.5), (7, 30, 0.4), (4, 4, 0.9)]:
    ours = hypothesis.binomial(successes, n, p, alternative=alternative)
    theirs = stats.binomtest(successes, n, p, alternative=alternative)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-10)
    interval = theirs.proportion_ci(method="wilson")
    if alternative == "two-sided":
      assert ours.effect.low == pytest.approx(interval.low, abs=1e-9)
      assert ours.effect.high == pytest.approx(interval.high, abs=1e-9)
    assert ours.effect.value == successes / n
    assert (ours.statistic, ours.df, ours.n) == (successes, None, n)


def test_binomial_of_nothing_and_of_what_cannot_be():
  assert hypothesis.binomial(np.float64(3), 4) == hypothesis.binomial(3, 4)
  nothing = hypothesis.binomial(0, 0)
  assert nothing.p_value == 1.0 and math.isnan(nothing.effect.value)
  for successes, n, p in [
    (3, 2, 0.5),
    (-1, 2, 0.5),
    (1.5, 2, 0.5),
    (1, 2, 1.0),
  ]:
    with pytest.raises(ValueError, match=f"binomial: successes is {successes}"):
      hypothesis.binomial(successes, n, p)
  with pytest.raises(ValueError, match="alternative is 'above'"):
    hypothesis.binomial(1, 2, alternative="above")


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_paired_t_is_scipys(alternative):
  a, b = samples(30, 30)
  ours = hypothesis.paired_t(a, b, alternative=alternative)
  theirs = stats.ttest_rel(a, b, alternative=alternative)
  assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-12)
  assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-10)
  assert (ours.df, ours.n, ours.alternative) == (29, 30, alternative)
  interval = stats.ttest_rel(a, b).confidence_interval()
  assert ours.effect.low == pytest.approx(interval.low, rel=1e-10)
  assert ours.effect.high == pytest.approx(interval.high, rel=1e-10)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("pooled", [True, False])
def test_two_sample_t_is_scipys(pooled, alternative):
  a, b = samples()
  ours = hypothesis.two_sample_t(a, b, pooled=pooled, alternative=alternative)
  theirs = stats.ttest_ind(a, b, equal_var=pooled, alternative=alternative)
  assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-12)
  assert ours.df == pytest.approx(theirs.df, rel=1e-12)
  assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-10)
  interval = stats.ttest_ind(a, b, equal_var=pooled).confidence_interval()
  assert ours.effect.low == pytest.approx(interval.low, rel=1e-10)
  assert ours.effect.high == pytest.approx(interval.high, rel=1e-10)
  assert ours.n == 65


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize(
  "test", [hypothesis.paired_t, hypothesis.two_sample_t, hypothesis.sign_test]
)
def test_swapping_gives_the_mirror_image(test, alternative):
  a, b = samples(24, 24)
  forth = test(a, b, alternative=alternative)
  back = test(b, a, alternative=MIRROR[alternative])
  assert forth.p_value == pytest.approx(back.p_value, rel=1e-12)
  whole = 1.0 if test is hypothesis.sign_test else 0.0
  assert forth.effect.low == pytest.approx(whole - back.effect.high)


@pytest.mark.parametrize(
  "test", [hypothesis.paired_t, hypothesis.two_sample_t, hypothesis.sign_test]
)
def test_the_order_of_rows_does_not_matter(test):
  a, b = samples(24, 24)
  mixed = np.random.default_rng(1).permutation(24)
  assert test(a, b).p_value == pytest.approx(
    test(a[mixed], b[mixed]).p_value, rel=1e-12
  )


@pytest.mark.parametrize("test", [hypothesis.paired_t, hypothesis.two_sample_t])
def test_t_tests_without_spread_or_rows(test):
  same = test([1.0, 1.0], [1.0, 1.0])
  assert (same.p_value, same.statistic) == (1.0, 0.0)
  apart = test([2.0, 2.0], [1.0, 1.0])
  assert (apart.p_value, apart.statistic) == (0.0, math.inf)
  assert (apart.effect.low, apart.effect.high) == (1.0, 1.0)
  one = test([2.0], [1.0])
  assert one.effect.value == 1.0 and math.isnan(one.p_value)
  assert math.isnan(one.effect.low)
  nothing = test([], [])
  assert nothing.n == 0 and math.isnan(nothing.p_value)
  assert math.isnan(nothing.effect.value)


@pytest.mark.parametrize(
  "test", [hypothesis.paired_t, hypothesis.two_sample_t, hypothesis.sign_test]
)
def test_nan_and_unknown_alternatives_are_errors(test):
  with pytest.raises(ValueError, match="1 values are not finite"):
    test([1.0, math.nan], [1.0, 2.0])
  with pytest.raises(ValueError, match="alternative is 'up'"):
    test([1.0, 3.0], [1.0, 2.0], alternative="up")


def test_paired_tests_want_pairs():
  for test in (hypothesis.paired_t, hypothesis.sign_test):
    with pytest.raises(ValueError, match="same rows"):
      test([1.0, 2.0], [1.0])


def test_sign_test_of_yes_and_no_is_mcnemars():
  generator = np.random.default_rng(0)
  a = (generator.random(80) < 0.8).astype(float)
  b = (generator.random(80) < 0.6).astype(float)
  table = [[int(((a == i) & (b == j)).sum()) for j in (1, 0)] for i in (1, 0)]
  ours = hypothesis.sign_test(a, b)
  theirs = contingency_tables.mcnemar(table, exact=True)
  assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-12)
  assert ours.statistic == table[0][1]
  assert (ours.n, ours.effect.n) == (80, table[0][1] + table[1][0])


def test_sign_test_leaves_ties_out():
  some = hypothesis.sign_test([3.0, 1.0, 2.0], [1.0, 2.0, 0.0])
  more = hypothesis.sign_test([3.0, 1.0, 2.0, 5.0], [1.0, 2.0, 0.0, 5.0])
  assert some.p_value == more.p_value == 1.0
  assert (more.n, more.effect.n, more.effect.value) == (4, 3, 2 / 3)
  assert hypothesis.sign_test([1.0], [1.0]).p_value == 1.0


def test_concordance_is_friedmans():
  generator = np.random.default_rng(0)
  for levels in (100, 3):  # hardly any ties, and many
    scores = generator.integers(0, levels, (6, 5)) + np.arange(5) * levels / 10
    ours = hypothesis.concordance(scores)
    theirs = stats.friedmanchisquare(*scores.T)
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-10)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-10)
    assert (ours.df, ours.n) == (4, 6)
    assert ours.effect.value == pytest.approx(theirs.statistic / 24)


def test_concordance_without_information():
  for ranks in ([[1, 2, 3]], [[1], [1]], [[1, 1], [1, 1]]):
    assert math.isnan(hypothesis.concordance(np.array(ranks)).p_value)
  with pytest.raises(ValueError, match="row 1 did not rank all 2"):
    hypothesis.concordance(np.array([[1, 2], [1, math.nan]]))
