# SPDX-License-Identifier: Apache-2.0
"""Log-probs of continuations and of options against whole forwards."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.engine import scoring
from rlaif_jax.models import decoder
from tests import testing

FUNCTIONS = testing.jitted(decoder.functions(testing.tiny_decoder(9)))


@pytest.fixture(scope="module")
def params():
  return testing.build(FUNCTIONS)


def log_prob_by_hand(params, prompt, continuation):
  """Sum of log softmax, one whole forward over real tokens only."""
  row = jnp.asarray([[*prompt, *continuation]])
  hidden = testing.all_hidden(FUNCTIONS, params, row, jnp.ones(row.shape, bool))
  table = jax.nn.log_softmax(FUNCTIONS.logits(params, hidden)[0], axis=-1)
  begin = len(prompt) - 1
  return sum(float(table[begin + j, t]) for j, t in enumerate(continuation))


PROMPTS = ([3, 4], [5, 6, 7, 2])


def padded():
  tokens = jnp.array([[8, 3, 0, 4, 0], [5, 6, 7, 2, 0]])
  valid = jnp.array([[0, 1, 0, 1, 0], [1, 1, 1, 1, 0]], bool)
  return tokens, valid


def test_options_of_one_and_several_tokens(params):
  """ "10" after "1": the joint log-prob of the whole string."""
  options = ((1,), (2,), (1, 8), (1, 8, 3))
  tokens, valid = padded()
  result = scoring.option_log_probs(FUNCTIONS, params, tokens, valid, options)
  for row, prompt in enumerate(PROMPTS):
    for column, option in enumerate(options):
      expected = log_prob_by_hand(params, prompt, option)
      assert abs(float(result[row, column]) - expected) < 1e-4


def test_an_empty_option_is_an_error(params):
  tokens, valid = padded()
  with pytest.raises(ValueError, match="needs a token"):
    scoring.option_log_probs(FUNCTIONS, params, tokens, valid, ((1,), ()))


def test_response_log_probs_with_padding_on_both_sides(params):
  batch = batches.TokenBatch(
    tokens=jnp.array([[0, 3, 4, 5, 1, 0], [5, 6, 7, 2, 3, 1]]),
    valid=jnp.array([[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]], bool),
    weights=jnp.array([[1.0, 1, 0], [1, 1, 1]]),
  )
  result = scoring.response_log_probs(FUNCTIONS, params, batch)
  first = log_prob_by_hand(params, [3, 4], [5, 1])
  second = log_prob_by_hand(params, [5, 6, 7], [2, 3, 1])
  assert abs(float(result[0, :2].sum()) - first) < 1e-4
  assert abs(float(result[1].sum()) - second) < 1e-4


def test_rows_that_begin_alike_are_read_once(params):
  """Common beginning [3, 4], prefixes [5] and [6, 7], three suffixes."""
  batch = batches.SharedBatch(
    common=jnp.array([[0, 3, 4]]),
    common_valid=jnp.array([[False, True, True]]),
    prefixes=jnp.array([[0, 5], [6, 7]]),
    prefix_valid=jnp.array([[False, True], [True, True]]),
    owner=jnp.array([1, 0, 1, 0]),
    suffixes=jnp.array([[0, 2], [8, 3], [2, 5], [0, 0]]),
    suffix_valid=jnp.array([[0, 1], [1, 1], [1, 1], [0, 0]], bool),
  )
  whole = ([3, 4, 6, 7, 2], [3, 4, 5, 8, 3], [3, 4, 6, 7, 2, 5])
  options = ((1,), (1, 8))
  found = scoring.shared_option_log_probs(FUNCTIONS, params, batch, options)
  for row, prompt in enumerate(whole):
    for column, option in enumerate(options):
      expected = log_prob_by_hand(params, prompt, option)
      assert abs(float(found[row, column]) - expected) < 1e-4
  weights = jnp.array([[0.0, 0], [0, 1], [0, 1], [0, 0]])
  sums = scoring.shared_log_likelihoods(FUNCTIONS, params, batch, weights)
  expected = [
    0.0,
    *(log_prob_by_hand(params, w[:-1], w[-1:]) for w in whole[1:]),
  ]
  np.testing.assert_allclose(sums[:3], expected, atol=1e-4)
