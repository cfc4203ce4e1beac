# SPDX-License-Identifier: Apache-2.0
"""Option log-probs to probabilities, scores and rewards."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.labeling import option_probs
from tests import testing


TEN = tuple(str(score) for score in range(1, 11))
MASS = (0.2, 0.05, 0.05, 0.02, 0.03, 0.05, 0.1, 0.1, 0.1, 0.25)


def test_prefix_options_follow_tokens_not_characters():
  two, one = testing.CharTokenizer(), testing.CharTokenizer(words=("10",))
  assert option_probs.prefix_options(TEN, two) == (-1,) * 9 + (0,)
  assert option_probs.prefix_options(TEN, one) == (-1,) * 10
  nested = ("1", "100", "10", "2")
  assert option_probs.prefix_options(nested, two) == (-1, 2, 0, -1)
  with pytest.raises(ValueError, match="different, non-empty"):
    option_probs.prefix_options(("é", "ü"), two)  # both unknown: "?"


class Blank(testing.CharTokenizer):
  """Puts a blank before every text, as the vocabulary of Llama 2 does."""

  def encode(self, text):
    return super().encode(" " + text) if text else []


def test_options_have_the_tokens_that_continue_a_prompt():
  plain = testing.CharTokenizer(words=("10",))
  expected = tuple(tuple(plain.encode(option)) for option in TEN)
  assert option_probs.option_ids(TEN, Blank(words=("10",))) == expected
  assert option_probs.option_ids(TEN, plain) == expected
  # An option with a blank of its own keeps that one.
  (own,) = option_probs.option_ids((" 1",), Blank())
  assert own == tuple(testing.CharTokenizer().encode(" 1"))


def test_nested_prefixes_subtract_each_string_once():
  # P(begins with): "1" 0.7, "10" 0.3, "100" 0.1, "2" 0.2.
  log_probs = [math.log(p) for p in (0.7, 0.3, 0.1, 0.2)]
  result = option_probs.probabilities_from_log_probs(log_probs, (-1, 0, 1, -1))
  np.testing.assert_allclose(result, np.array([4, 2, 1, 2]) / 9, rtol=1e-12)


def test_probabilities_without_prefixes_are_a_softmax():
  log_probs = [-0.5, -1.5]
  result = option_probs.probabilities_from_log_probs(log_probs, (-1, -1))
  ratio = math.exp(-0.5) / (math.exp(-0.5) + math.exp(-1.5))
  np.testing.assert_allclose(result, [ratio, 1 - ratio], rtol=1e-14)


@pytest.mark.parametrize("shift", [0.0, -700.0, -5000.0])
def test_probabilities_hold_at_extremes(shift):
  # "1" is always followed by "0": its own mass is floored, never negative,
  # also where rounding puts "10" above "1".
  for excess in (0.0, 1e-6):
    log_probs = [shift - 1.0, shift - 1.0 + excess, shift - 3.0]
    result = option_probs.probabilities_from_log_probs(log_probs, (-1, 0, -1))
    assert np.all(result > 0)
    assert result.sum() == pytest.approx(1.0, rel=1e-12)
    assert result[0] < 2e-6
    ratio = math.exp(-1.0) / (math.exp(-1.0) + math.exp(-3.0))
    assert result[1] == pytest.approx(ratio, rel=1e-5)


def test_jitted_arithmetic_agrees_with_the_host():
  generator = np.random.default_rng(0)
  log_probs = generator.normal(-3.0, 1.0, (4, 10))
  log_probs[:, 0] = log_probs[:, 9] + 0.5
  prefix_of = (-1,) * 9 + (0,)

  @jax.jit
  def reward(values):
    probabilities = option_probs.probabilities_from_log_probs(
      values, prefix_of, xp=jnp
    )
    return option_probs.to_reward(
      option_probs.expected_score(probabilities, xp=jnp)
    )

  host = option_probs.probabilities_from_log_probs(log_probs, prefix_of)
  expected = option_probs.to_reward(option_probs.expected_score(host))
  result = reward(jnp.asarray(log_probs, jnp.float32))
  assert result.dtype == jnp.float32 and result.shape == (4,)
  np.testing.assert_allclose(result, expected, atol=1e-5)


def test_expected_score_and_reward_cover_their_ranges():
  scores = option_probs.expected_score(np.eye(10))
  np.testing.assert_array_equal(scores, np.arange(1, 11))
  rewards = option_probs.to_reward(scores)
  assert (rewards[0], rewards[9]) == (-1.0, 1.0)
  uniform = option_probs.to_reward(
    option_probs.expected_score(np.full(10, 0.1))
  )
  assert uniform == pytest.approx(0.0, abs=1e-12)
