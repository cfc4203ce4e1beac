# SPDX-License-Identifier: Apache-2.0
"""Agreement and position bias on cases counted by hand."""

from __future__ import annotations

import math

import pytest

from rlaif_jax.core import records
from rlaif_jax.evaluation import agreement


def label(name, p, orders=(), first="aa", second="b"):
  return records.Preference(
    id=name,
    context="aa cc",
    first=first,
    second=second,
    p_first=p,
    labeler="x",
    p_orders=orders,
  )


def test_alignment_counts_ties_half_and_unanswered_apart():
  """Trap: a judge that did not answer is scored as an answer."""
  labels = [label("1", 0.9), label("2", 0.2), label("3", 0.5)]
  humans = [label("1", 1.0), label("2", 1.0), label("3", 0.0), label("4", 1.0)]
  result = agreement.alignment(labels, humans)
  assert result.accuracy.value == pytest.approx(1.5 / 3)
  assert result.accuracy.n == 3
  assert (result.ties, result.unanswered) == (1, 1)
  # "aa" is longer and copied; humans prefer it in two of three pairs.
  assert result.longer_wins.value == pytest.approx(2 / 3)
  assert result.copied_wins.value == pytest.approx(2 / 3)
  entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
  entropy += -(0.2 * math.log(0.2) + 0.8 * math.log(0.8)) + math.log(2)
  assert result.entropy == pytest.approx(entropy / 3)


def test_labels_of_other_pairs_are_an_error():
  with pytest.raises(ValueError, match="same id"):
    agreement.alignment([label("1", 0.9)], [label("2", 1.0)])


def test_position_bias_by_hand():
  labels = [
    label("1", 0.5, (0.9, 0.1)),  # first position twice
    label("2", 0.5, (0.8, 0.3)),  # first position twice
    label("3", 0.5, (0.2, 0.7)),  # second position twice
    label("4", 0.8, (0.9, 0.7)),  # the text decides
    label("5", 0.5),  # no orders kept
  ]
  result = agreement.position_bias(labels)
  assert result.same_position.value == pytest.approx(3 / 4)
  assert result.same_position.n == 4
  assert result.consistent.value == pytest.approx(1 / 4)
  assert result.first_side.value == pytest.approx(2 / 3)
  assert result.p_value == pytest.approx(1.0)


def test_reward_accuracy_counts_equal_rewards_half():
  labels = [label("1", 1.0), label("2", 1.0), label("3", 0.2)]
  first, second = [1.0, 1.0, 3.0], [0.0, 1.0, 2.0]
  assert agreement.reward_accuracy((first, second), labels) == {
    "accuracy": 0.5,
    "correct": 1.5,
    "n": 3,
  }
