# SPDX-License-Identifier: Apache-2.0
"""Pairs of four responses by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.ops import pair_choice

SCORES = np.array([[0.1, 0.9, 0.5, 0.3], [2.0, 2.0, 2.0, 2.0]])


def choose(kind, seed=0, scores=SCORES):
  return pair_choice.choose(scores, kind, np.random.default_rng(seed))


def test_best_and_worst_and_second_best():
  first, second, keep = choose("max_min")
  assert (first[0], second[0]) == (1, 0)
  np.testing.assert_array_equal(keep, [True, False])  # A tie says nothing.
  first, second, _ = choose("max_max")
  assert (first[0], second[0]) == (1, 2)


@pytest.mark.parametrize("kind", ["max_random", "random"])
def test_drawn_pairs_are_two_different_ones_the_better_first(kind):
  scores = np.tile(SCORES[:1], (4000, 1))
  first, second, keep = choose(kind, scores=scores)
  assert keep.all() and (first != second).all()
  assert (scores[0][first] > scores[0][second]).all()
  seen = np.unique(np.stack([first, second]), axis=1, return_counts=True)[1]
  # max_random: 3 others, alike; random: all 6 pairs, alike.
  expected = 4000 / (3 if kind == "max_random" else 6)
  assert len(seen) == round(4000 / expected)
  np.testing.assert_allclose(seen, expected, rtol=0.15)


def test_a_length_penalty_turns_a_choice():
  scores, tokens = np.array([[1.0, 0.9]]), np.array([[9, 4]])
  assert choose("max_min", scores=scores)[0][0] == 0
  short = pair_choice.penalized(scores, tokens, 0.1)
  np.testing.assert_allclose(short, [[0.1, 0.5]])
  assert choose("max_min", scores=short)[0][0] == 1


def test_mean_wins_leave_out_the_diagonal():
  chances = np.array([[[0.9, 1.0, 0.5], [0.0, 0.9, 0.2], [0.5, 0.8, 0.9]]])
  np.testing.assert_allclose(
    pair_choice.mean_wins(chances), [[0.75, 0.1, 0.65]]
  )


def test_what_cannot_be_chosen_is_named():
  with pytest.raises(ValueError, match="min_min"):
    choose("min_min")
  with pytest.raises(ValueError, match="K is 1"):
    choose("max_min", scores=SCORES[:, :1])


def test_weights_have_mean_one_and_controls_compare_with_them():
  margins = np.asarray([2.0, -1.0, 1.0, 0.0, 0.5, 4.0])
  generator = np.random.default_rng(0)
  plain = pair_choice.weights(margins, "margin", generator)
  assert plain.mean() == pytest.approx(1.0)
  assert plain[1] == plain[3] == 0 and plain[0] == pytest.approx(2 * plain[2])
  shuffled = pair_choice.weights(margins, "shuffled", generator)
  assert sorted(shuffled) == sorted(plain) and (shuffled != plain).any()
  top = pair_choice.weights(margins, "top", generator)
  np.testing.assert_allclose(top, [2, 0, 2, 0, 0, 2])
  with pytest.raises(ValueError, match="shuffled"):
    pair_choice.weights(margins, "gold", generator)


def test_a_ring_has_each_pair_once():
  one = {tuple(pair) for pair in pair_choice.ring(4, 1)}
  assert one == {(0, 1), (1, 2), (2, 3), (0, 3)}
  assert len(pair_choice.ring(5, 2)) == len(pair_choice.ring(5, 9)) == 10
  assert pair_choice.ring(2, 1).tolist() == [[0, 1]]
  counts = np.bincount(pair_choice.ring(7, 2).ravel())
  assert counts.tolist() == [4] * 7
