# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.labeling.rating."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import rating
from tests import testing

TEN = tuple(str(score) for score in range(1, 11))
# Probability of each score as a complete answer; the rest is other text.
MASS = (0.2, 0.05, 0.05, 0.02, 0.03, 0.05, 0.1, 0.1, 0.1, 0.25)


def example(number=0, response="a summary"):
  return records.Example(id=f"e{number}", context="doc", response=response)


def whole_string_log_probs(tokenizer):
  """Joint log-probs of the options' tokens in a model with masses MASS."""
  as_two_tokens = len(tokenizer.encode("10")) == 2
  result = [math.log(mass) for mass in MASS]
  if as_two_tokens:  # then P("1") holds "1" alone and "1" followed by "0"
    result[0] = math.log(MASS[0] + MASS[9])
  return result


@pytest.mark.parametrize("words", [(), ("10",)], ids=["two", "one"])
def test_one_and_ten_are_told_apart_whatever_the_tokenizer(words):
  tokenizer = testing.CharTokenizer(words=words)
  log_probs = whole_string_log_probs(tokenizer)
  backend = testing.ScriptedBackend(
    lambda p, o: log_probs[TEN.index(o)], tokenizer=tokenizer
  )
  (result,), _ = rating.rate(
    [example()], backend, rating.RatingConfig(), tokenizer=tokenizer
  )
  total = sum(MASS)
  expected = [mass / total for mass in MASS]
  np.testing.assert_allclose(result.probabilities, expected, rtol=1e-12)
  score = sum((i + 1) * p for i, p in enumerate(expected))
  assert result.score == pytest.approx(score, rel=1e-12)


def test_prefix_options_follow_tokens_not_characters():
  two, one = testing.CharTokenizer(), testing.CharTokenizer(words=("10",))
  assert rating.prefix_options(TEN, two) == (-1,) * 9 + (0,)
  assert rating.prefix_options(TEN, one) == (-1,) * 10
  nested = ("1", "100", "10", "2")
  assert rating.prefix_options(nested, two) == (-1, 2, 0, -1)
  with pytest.raises(ValueError, match="should differ"):
    rating.prefix_options(("é", "ü"), two)  # both unknown: "?"


def test_nested_prefixes_subtract_each_string_once():
  # P(begins with): "1" 0.7, "10" 0.3, "100" 0.1, "2" 0.2.
  log_probs = [math.log(p) for p in (0.7, 0.3, 0.1, 0.2)]
  result = rating.probabilities_from_log_probs(log_probs, (-1, 0, 1, -1))
  np.testing.assert_allclose(result, np.array([4, 2, 1, 2]) / 9, rtol=1e-12)


def test_probabilities_without_prefixes_are_a_softmax():
  log_probs = [-0.5, -1.5]
  result = rating.probabilities_from_log_probs(log_probs, (-1, -1))
  ratio = math.exp(-0.5) / (math.exp(-0.5) + math.exp(-1.5))
  np.testing.assert_allclose(result, [ratio, 1 - ratio], rtol=1e-14)


@pytest.mark.parametrize("shift", [0.0, -700.0, -5000.0])
def test_probabilities_hold_at_extremes(shift):
  # "1" is always followed by "0": its own mass is floored, never negative,
  # also where rounding puts "10" above "1".
  for excess in (0.0, 1e-6):
    log_probs = [shift - 1.0, shift - 1.0 + excess, shift - 3.0]
    result = rating.probabilities_from_log_probs(log_probs, (-1, 0, -1))
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
    probabilities = rating.probabilities_from_log_probs(
      values, prefix_of, xp=jnp
    )
    return rating.to_reward(rating.expected_score(probabilities, xp=jnp))

  host = rating.probabilities_from_log_probs(log_probs, prefix_of)
  expected = rating.to_reward(rating.expected_score(host))
  result = reward(jnp.asarray(log_probs, jnp.float32))
  assert result.dtype == jnp.float32 and result.shape == (4,)
  np.testing.assert_allclose(result, expected, atol=1e-5)


def test_expected_score_and_reward_cover_their_ranges():
  scores = rating.expected_score(np.eye(10))
  np.testing.assert_array_equal(scores, np.arange(1, 11))
  rewards = rating.to_reward(scores)
  assert (rewards[0], rewards[9]) == (-1.0, 1.0)
  uniform = rating.to_reward(rating.expected_score(np.full(10, 0.1)))
  assert uniform == pytest.approx(0.0, abs=1e-12)


def test_rate_asks_once_and_keeps_the_order():
  tokenizer = testing.CharTokenizer()

  def log_prob(prompt, option):
    best = "9" if "good" in prompt else "2"
    return math.log(0.5 if option == best else 0.05)

  backend = testing.ScriptedBackend(log_prob)
  rows = [example(0, "good one"), example(1, "bad"), example(2, "good")]
  ratings, usage = rating.rate(
    rows,
    backend,
    rating.RatingConfig(template="docstring_rating"),
    tokenizer=tokenizer,
  )
  assert len(backend.calls) == 1 and usage.requests == 3
  assert [r.id for r in ratings] == ["e0", "e1", "e2"]
  assert ratings[0].score == ratings[2].score > ratings[1].score
  assert ratings[0].labeler == "scripted" and ratings[1].response == "bad"


@pytest.mark.parametrize(
  "bad, reason",
  [
    ({"3": math.nan}, "non-finite"),
    ({"3": -math.inf}, "non-finite"),
    ({"3": 0.5}, "above 0"),
    ({"1": -9.0}, "more likely than its own prefix"),
  ],
)
def test_no_answer_is_not_scored_as_an_answer(bad, reason):
  def log_prob(prompt, option):
    return bad.get(option, -2.5) if "broken" in prompt else -2.5

  rows = [example(0), example(1, "broken"), example(2)]
  config = rating.RatingConfig()
  arguments = {"tokenizer": testing.CharTokenizer()}
  quarantine = jsonl.Quarantine()
  backend = testing.ScriptedBackend(log_prob, **arguments)
  ratings, _ = rating.rate(
    rows, backend, config, quarantine=quarantine, **arguments
  )
  assert [r.id for r in ratings] == ["e0", "e2"]
  assert reason in quarantine.rows[0]["reason"]
  assert quarantine.rows[0]["row"]["id"] == "e1"
  with pytest.raises(ValueError, match=f"Example e1: .*{reason}"):
    rating.rate(rows, backend, config, **arguments)


def test_contexts_are_cut_and_hopeless_ones_set_aside():
  tokenizer = testing.CharTokenizer()
  backend = testing.ScriptedBackend(lambda p, o: -2.5)
  rows = [
    records.Example(id="long", context="x" * 99, response="r"),
    records.Example(id="hopeless", context="", response="r" * 99),
  ]
  quarantine = jsonl.Quarantine()
  ratings, _ = rating.rate(
    rows,
    backend,
    rating.RatingConfig(template="docstring_rating", max_context_tokens=90),
    tokenizer=tokenizer,
    quarantine=quarantine,
  )
  assert [r.id for r in ratings] == ["long"]
  assert ratings[0].context == "x" * 99  # the record keeps the whole text
  assert [len(prompt) for prompt in backend.calls[0]] == [90]
  assert "limit is 90" in quarantine.rows[0]["reason"]


def test_wrong_settings_and_broken_backends_are_errors():
  tokenizer = testing.CharTokenizer()
  backend = testing.ScriptedBackend(lambda p, o: -2.5)
  with pytest.raises(ValueError, match="max_context_tokens is 0"):
    rating.RatingConfig(max_context_tokens=0)
  pairwise = rating.RatingConfig(template="summary_base")
  with pytest.raises(ValueError, match="pointwise"):
    rating.rate([example()], backend, pairwise, tokenizer=tokenizer)
  backend.score_options = lambda prompts, options: ([], records.Usage())
  with pytest.raises(ValueError, match="1 rows of 10 were asked"):
    rating.rate(
      [example()], backend, rating.RatingConfig(), tokenizer=tokenizer
    )
  with pytest.raises(ValueError, match="2 options.*names 3"):
    rating.probabilities_from_log_probs([0.0, 0.0], (-1, -1, -1))
