# SPDX-License-Identifier: Apache-2.0
"""Reliability of soft labels by hand, by symmetry and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlaif_jax.evaluation import calibration


def simulated(n=800, temperature=1.0, seed=0):
  """Labels whose logits are those of people over `temperature`."""
  generator = np.random.default_rng(seed)
  logits = 2 * generator.normal(size=n)
  p = 1 / (1 + np.exp(-logits / temperature))
  truth = (generator.random(n) < 1 / (1 + np.exp(-logits))).astype(float)
  return p, truth


P = np.array([0.95, 0.1, 0.55, 0.52, 0.5])
TRUTH = np.array([1.0, 1.0, 0.0, 1.0, 1.0])


def test_bins_of_equal_width_by_hand():
  result = calibration.calibration(P, TRUTH, bins=2)
  # Below 0.75: 0.55 is wrong, 0.52 is right, 0.5 is half right.
  low, high = result.bins
  assert (low.low, low.high, high.low, high.high) == (0.5, 0.75, 0.75, 1.0)
  assert low.confidence == pytest.approx((0.55 + 0.52 + 0.5) / 3)
  assert (low.correct.value, low.correct.n) == (pytest.approx(0.5), 3)
  assert high.confidence == pytest.approx((0.95 + 0.9) / 2)
  assert (high.correct.value, high.correct.n) == (pytest.approx(0.5), 2)
  gaps = abs(1.5 - 1.57) + abs(1.0 - 1.85)
  assert result.error.value == pytest.approx(gaps / 5)
  assert result.error.n == 5 and result.binning == "width"


def test_brier_and_entropy_by_hand():
  result = calibration.calibration(P, TRUTH)
  squares = [0.05**2, 0.9**2, 0.55**2, 0.48**2, 0.25]
  assert result.brier.value == pytest.approx(np.mean(squares))
  nats = [-(q * math.log(q) + (1 - q) * math.log(1 - q)) for q in P]
  assert result.entropy.value == pytest.approx(np.mean(nats))
  assert result.entropy.low < result.entropy.value < result.entropy.high
  np.testing.assert_allclose(
    calibration.entropy(np.array([0.0, 0.5, 1.0])), [0.0, math.log(2), 0.0]
  )


def test_bins_of_equal_mass():
  p, _ = simulated(1000)
  result = calibration.calibration(p, p, bins=8, binning="mass")
  assert [b.correct.n for b in result.bins] == [125] * 8
  assert result.bins[0].low == 0.5 and result.bins[-1].high == 1.0
  for before, after in zip(result.bins, result.bins[1:]):
    assert before.high == after.low


def test_equal_confidences_stay_in_one_bin():
  p = np.array([0.6, 0.4] * 20 + [0.8] * 20 + [1.0] * 40)
  result = calibration.calibration(p, np.ones(100), bins=4, binning="mass")
  assert [b.correct.n for b in result.bins] == [40, 20, 40]
  assert [b.confidence for b in result.bins] == pytest.approx([0.6, 0.8, 1.0])


def test_a_label_on_the_border_belongs_to_the_upper_bin():
  """The edges of ten bins are exactly 0.55, 0.6 and so on."""
  for k in range(11, 20):
    p = np.array([k / 20, 1 - k / 20, 1 - (1 - k / 20)])
    (only,) = calibration.calibration(p, p).bins
    assert (only.low, only.correct.n) == (k / 20, 3)
  (last,) = calibration.calibration(np.array([1.0, 0.0]), np.ones(2)).bins
  assert (last.low, last.high, last.correct.n) == (0.95, 1.0, 2)


@pytest.mark.parametrize("binning", calibration.BINNINGS)
def test_swapping_first_and_second_changes_nothing(binning):
  p, truth = simulated(300, 0.5)
  p = p.round(2)
  a = calibration.calibration(p, truth, binning=binning)
  b = calibration.calibration(1 - p, 1 - truth, binning=binning)
  for name in ("error", "error_if_calibrated", "brier", "entropy"):
    x, y = getattr(a, name), getattr(b, name)
    assert (x.value, x.low) == pytest.approx((y.value, y.low), abs=1e-12)
  assert [x.correct for x in a.bins] == [y.correct for y in b.bins]


@pytest.mark.parametrize("binning", calibration.BINNINGS)
def test_the_order_of_pairs_does_not_matter(binning):
  p, truth = simulated(300, 0.5)
  mixed = np.random.default_rng(1).permutation(300)
  a = calibration.calibration(p, truth, binning=binning)
  b = calibration.calibration(p[mixed], truth[mixed], binning=binning)
  assert a.error.value == pytest.approx(b.error.value)
  assert a.brier.value == pytest.approx(b.brier.value)
  assert [x.correct.n for x in a.bins] == [x.correct.n for x in b.bins]


def test_right_labels_show_an_error_by_chance_and_the_interval_knows():
  p, truth = simulated()
  result = calibration.calibration(p, truth)
  assert result.error.value > 0.01
  assert result.error.low == 0.0
  chance = result.error_if_calibrated
  assert chance.low < result.error.value < chance.high
  # The mean error of right labels, over other draws of everything.
  others = [
    calibration.calibration(*simulated(seed=s)).error.value for s in (1, 2, 3)
  ]
  assert np.mean(others) == pytest.approx(chance.value, rel=0.5)


def test_over_confident_labels_are_found():
  """The truth is known from a million pairs, where chance plays no part."""
  many, _ = simulated(1_000_000, 0.7, seed=99)
  confidence = np.maximum(many, 1 - many)
  logits = 0.7 * np.log(confidence / (1 - confidence))
  expected = np.mean(confidence - 1 / (1 + np.exp(-logits)))
  covered = 0
  for seed in range(12):
    result = calibration.calibration(*simulated(300, 0.7, seed))
    covered += result.error.low < expected < result.error.high
  assert covered >= 10
  result = calibration.calibration(*simulated(300, 0.4))
  assert result.error.low > 0
  assert result.error.value > result.error_if_calibrated.high
  surest = result.bins[-1]
  assert surest.correct.high < surest.confidence


def test_shares_of_raters_are_right_as_they_are():
  p, _ = simulated()
  result = calibration.calibration(p, p)
  assert result.error.value == pytest.approx(0.0, abs=1e-12)
  assert result.brier.value == pytest.approx(0.0, abs=1e-12)


def test_labels_that_always_tie_are_calibrated():
  result = calibration.calibration(np.full(50, 0.5), np.ones(50))
  assert result.error.value == 0.0 and result.error_if_calibrated.high == 0.0
  assert result.brier.value == 0.25
  assert result.entropy.value == pytest.approx(math.log(2))


def test_pairs_without_a_label_are_counted_and_left_out():
  p = np.concatenate([P, [math.nan, 0.9]])
  truth = np.concatenate([TRUTH, [1.0, math.nan]])
  result = calibration.calibration(p, truth)
  assert result.left_out == 2
  assert result.error.value == calibration.calibration(P, TRUTH).error.value


@pytest.mark.parametrize("binning", calibration.BINNINGS)
def test_calibration_of_nothing_and_of_one(binning):
  for p in ([], [math.nan]):
    result = calibration.calibration(p, p, binning=binning)
    assert (result.bins, result.left_out) == ((), len(p))
    for estimate in (result.error, result.error_if_calibrated, result.brier):
      assert estimate.n == 0 and math.isnan(estimate.value)
  one = calibration.calibration([0.8], [1.0], binning=binning)
  assert one.error.value == pytest.approx(0.2) and math.isnan(one.error.low)


@pytest.mark.parametrize(
  "p, truth, options, message",
  [
    ([1.2], [1.0], {}, "p_first: 1 values"),
    ([0.2], [-1.0], {}, "truth: 1 values"),
    ([0.2, 0.3], [1.0], {}, "same rows"),
    ([0.2], [1.0], {"bins": 0}, "bins is 0"),
    ([0.2], [1.0], {"binning": "size"}, "binning is 'size'"),
  ],
)
def test_what_cannot_be_calibrated(p, truth, options, message):
  with pytest.raises(ValueError, match=message):
    calibration.calibration(p, truth, **options)


def test_the_seed_moves_the_intervals_alone():
  p, truth = simulated(200, 0.5)
  a, b = (calibration.calibration(p, truth, seed=s) for s in (0, 1))
  assert a.error.value == b.error.value and a.error.high != b.error.high


def test_calibration_error_by_hand():
  p = np.array([0.9, 0.9, 0.1, 0.55])
  truth = np.array([1.0, 0.0, 0.0, 1.0])
  expected = (abs(2 - 2.7) + abs(1 - 0.55)) / 4
  assert calibration.expected_error(p, truth) == pytest.approx(expected)
  full = calibration.calibration(p, truth)
  assert full.error.value == pytest.approx(expected)
