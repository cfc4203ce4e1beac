# SPDX-License-Identifier: Apache-2.0
"""Win rates by hand, their mirror image, and length taken out."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.evaluation import win_rate


def test_ties_count_half():
  result = win_rate.compare(
    ("A", "B"),
    (np.array([1.0, 2.0, 3.0, 0.0]), np.array([0.0, 2.0, 1.0, 4.0])),
    (np.full(4, 10.0), np.full(4, 10.0)),
  )
  assert result.win_rate.value == pytest.approx(2.5 / 4)
  assert (result.ties, result.win_rate.n) == (1, 4)


def simulated(effect):
  """Scores that are length plus an effect of the policy."""
  generator = np.random.default_rng(0)
  length_a = generator.uniform(20, 60, 3000)
  length_b = generator.uniform(15, 45, 3000)
  noise = generator.logistic(size=3000)
  gap = 3.0 * np.log(length_a / length_b) + effect + noise
  return (gap, np.zeros(3000)), (length_a, length_b)


def test_an_advantage_of_length_alone_goes_away():
  scores, lengths = simulated(0.0)
  result = win_rate.compare(("A", "B"), scores, lengths)
  assert result.win_rate.low > 0.55
  controlled = result.log_length_controlled
  assert controlled.low < 0.5 < controlled.high


def test_a_real_advantage_stays():
  scores, lengths = simulated(1.0)
  result = win_rate.compare(("A", "B"), scores, lengths)
  expected = 1 / (1 + np.exp(-1.0))
  controlled = result.log_length_controlled
  assert controlled.low < expected < controlled.high


def test_swapping_gives_the_mirror_image():
  scores, lengths = simulated(0.5)
  forth = win_rate.compare(("A", "B"), scores, lengths)
  back = win_rate.compare(("B", "A"), scores[::-1], lengths[::-1])
  for name in ("win_rate", "log_length_controlled"):
    a, b = getattr(forth, name), getattr(back, name)
    assert a.value == pytest.approx(1 - b.value, abs=1e-6)
    assert a.low == pytest.approx(1 - b.high, abs=1e-6)


def test_matrix_has_each_pair_once():
  scores = {n: np.arange(3.0) for n in "ABC"}
  names = [(c.a, c.b) for c in win_rate.matrix(scores, scores)]
  assert names == [("A", "B"), ("A", "C"), ("B", "C")]


def test_different_contexts_are_an_error():
  with pytest.raises(ValueError, match="same contexts"):
    win_rate.compare(
      ("A", "B"), (np.ones(3), np.ones(2)), (np.ones(3), np.ones(3))
    )


def test_harmless_rate():
  assert win_rate.harmless_rate([True, False, True, True]).value == 0.75
