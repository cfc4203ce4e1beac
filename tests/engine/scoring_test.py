# SPDX-License-Identifier: Apache-2.0
"""Log-probs of continuations and of options against whole forwards."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.engine import scoring
from rlaif_jax.models import decoder
from rlaif_jax.ops import logprobs
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
  with pytest.raises(ValueError, match="needs at least one token"):
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
  """Prefix [3, 4], group prefixes [5] and [6, 7], three suffixes."""
  prefix = prefix_sharing.prefill_prefix(
    FUNCTIONS,
    params,
    jnp.array([[0, 3, 4]]),
    jnp.array([[False, True, True]]),
  )
  batch = prefix_sharing.SharedPrompts(
    group_tokens=jnp.array([[0, 5], [6, 7]]),
    group_valid=jnp.array([[False, True], [True, True]]),
    group_ids=jnp.array([1, 0, 1, 0]),
    suffix=jnp.array([[0, 2], [8, 3], [2, 5], [0, 0]]),
    suffix_valid=jnp.array([[0, 1], [1, 1], [1, 1], [0, 0]], bool),
  )
  whole = ([3, 4, 6, 7, 2], [3, 4, 5, 8, 3], [3, 4, 6, 7, 2, 5])
  options = ((1,), (1, 8))
  found = scoring.shared_option_log_probs(
    FUNCTIONS, params, prefix, batch, options
  )
  for row, prompt in enumerate(whole):
    for column, option in enumerate(options):
      expected = log_prob_by_hand(params, prompt, option)
      assert abs(float(found[row, column]) - expected) < 1e-4
  weights = jnp.array([[0.0, 0], [0, 1], [0, 1], [0, 0]])
  sums = scoring.shared_log_likelihoods(
    FUNCTIONS, params, prefix, batch, weights
  )
  expected = [
    0.0,
    *(log_prob_by_hand(params, w[:-1], w[-1:]) for w in whole[1:]),
  ]
  np.testing.assert_allclose(sums[:3], expected, atol=1e-4)


def head_only(vocab, width=8):
  """A model that is its table [V, D] of the output layer."""
  return dataclasses.replace(
    FUNCTIONS,
    logits=lambda table, hidden: hidden @ table.T,
    vocab_size=vocab,
  ), jax.random.normal(jax.random.key(3), (vocab, width))


@pytest.mark.parametrize("shape", [(3, 7), (2, 2, 5), (2, 1)])
@pytest.mark.parametrize("at_once", [1, 60, 10**6])
def test_logits_of_few_columns_at_a_time(monkeypatch, shape, at_once):
  """Values and both gradients are those of all columns at once, whatever the
  part, one column at least."""
  model, table = head_only(11)
  generator = np.random.default_rng(0)
  hidden = jnp.asarray(generator.normal(0, 1, (*shape, 8)), jnp.float32)
  targets = jnp.asarray(generator.integers(0, 11, shape))
  weights = jnp.asarray(generator.normal(0, 1, shape), jnp.float32)

  def total(table, hidden):
    found = scoring.target_log_probs(
      model, table, hidden, targets, temperature=0.7
    )
    return jnp.sum(found * weights), found

  def whole(table, hidden):
    found = logprobs.token_log_probs(hidden @ table.T, targets, temperature=0.7)
    return jnp.sum(found * weights), found

  expected = jax.grad(whole, argnums=(0, 1), has_aux=True)(table, hidden)
  monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", at_once)
  found = jax.grad(total, argnums=(0, 1), has_aux=True)(table, hidden)
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_memory_does_not_grow_with_the_vocabulary(monkeypatch):
  """Temporary bytes of the gradient beyond the table's own, as compiled."""
  monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 2**16)
  hidden = jax.ShapeDtypeStruct((4, 64, 8), jnp.float32)
  targets = jax.ShapeDtypeStruct((4, 64), jnp.int32)

  def temporary(vocab, **changes):
    model, table = head_only(vocab)
    model = dataclasses.replace(model, **changes)

    def total(table, hidden, targets):
      found = scoring.target_log_probs(model, table, hidden, targets)
      return jnp.sum(found)

    step = jax.jit(jax.grad(total))
    compiled = step.lower(table, hidden, targets).compile()
    bytes_ = compiled.memory_analysis().temp_size_in_bytes
    return bytes_ - 2 * table.nbytes

  few, many = temporary(1024), temporary(8192)
  assert many < 1.5 * few
  # Rows that lie on many devices are as many logits less on each.
  assert temporary(8192, row_devices=64) > 4 * many
