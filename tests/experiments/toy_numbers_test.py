# SPDX-License-Identifier: Apache-2.0
"""Reliability and agreement of members by hand."""

from __future__ import annotations

import numpy as np

from rlaif_jax.experiments import toy_numbers


def test_accuracy_of_the_mean_and_of_members():
  margins = np.array([[3.0, -1.0, 1.0, -1.0], [-1.0, -1.0, -2.0, -1.0]])
  gaps = np.array([1.0, -1.0, 1.0, 0.0])
  found = toy_numbers.reliability(margins, gaps)
  # The mean is [1, -1, -0.5, -1]: wrong on the third; a tie counts as second.
  assert found["accuracy"] == 0.75
  assert found["member_accuracy"] == (4 / 4 + 2 / 4) / 2


def test_right_chances_have_no_error_and_twice_the_margin_has():
  generator = np.random.default_rng(0)
  margin = generator.normal(size=(1, 4_000))
  first = generator.random(4_000) < 1 / (1 + np.exp(-margin[0]))
  gaps = np.where(first, 1.0, -1.0)
  right = toy_numbers.reliability(margin, gaps)
  assert right["ece"] < 3 * right["ece_if_right"] < 0.1
  sure = toy_numbers.reliability(4 * margin, gaps)
  assert sure["ece"] > 0.1
  # The unit is taken out where the largest margin has a confidence of 0.99.
  np.testing.assert_allclose(sure["ece_rescaled"], right["ece_rescaled"])
  chances = 1 / (1 + 99 ** (-np.abs(margin[0]) / np.abs(margin).max()))
  gap = np.mean((margin[0] > 0) == first) - chances.mean()
  assert abs(right["ece_rescaled"] - abs(gap)) < 0.02


def test_ties_of_gold_are_half_right():
  margins = np.array([[50.0, -50.0]])
  found = toy_numbers.reliability(margins, np.zeros(2))
  np.testing.assert_allclose(found["ece"], 0.5, atol=1e-6)


def test_disagreement_and_correlation_do_not_see_units():
  first = np.random.default_rng(1).normal(size=500)
  same = np.stack([first, 3 * first + 7])
  np.testing.assert_allclose(toy_numbers.disagreement(same), 0, atol=1e-12)
  np.testing.assert_allclose(toy_numbers.correlation(same), 1.0)
  against = np.stack([first, -first])
  np.testing.assert_allclose(toy_numbers.correlation(against), -1.0)
  # Members at +z and -z have the deviation |z|.
  z = np.abs((first - first.mean()) / first.std()).mean()
  np.testing.assert_allclose(toy_numbers.disagreement(against), z)
  three = np.stack([first, first, -first])  # Of three pairs, one agrees.
  np.testing.assert_allclose(toy_numbers.correlation(three), -1 / 3)
