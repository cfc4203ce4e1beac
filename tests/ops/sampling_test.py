# SPDX-License-Identifier: Apache-2.0
"""Cuts by hand, greedy, and independence of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.ops import logprobs
from rlaif_jax.ops import sampling

LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))


def tokens(*args, **settings):
  return sampling.sample(*args, **settings)[0]


def test_top_k_and_top_p_by_hand():
  kept = np.isfinite(sampling.filter_top_k(LOGITS, 2))[0]
  np.testing.assert_array_equal(kept, [True, True, False, False])
  for top_p, count in ((0.4, 1), (0.6, 2), (0.79, 2), (0.9, 3), (0.99, 4)):
    assert np.isfinite(sampling.filter_top_p(LOGITS, top_p)).sum() == count


def test_cuts_are_applied_when_sampling():
  keys = jax.random.split(jax.random.key(0), 300)
  logits = jnp.repeat(LOGITS, 300, axis=0)
  plain = tokens(keys, logits, temperature=1.0)
  assert set(np.asarray(plain)) == {0, 1, 2, 3}
  top_k = tokens(keys, logits, temperature=1.0, top_k=2)
  assert set(np.asarray(top_k)) == {0, 1}
  top_p = tokens(keys, logits, temperature=1.0, top_p=0.4)
  assert set(np.asarray(top_p)) == {0}
  greedy = tokens(keys, logits, temperature=0.0)
  assert set(np.asarray(greedy)) == {0}


def test_frequencies_follow_the_temperature():
  """At 0.5 the probabilities are squared and normalised again."""
  rows = 4000
  keys = jax.random.split(jax.random.key(0), rows)
  logits = jnp.repeat(LOGITS, rows, axis=0)
  drawn = tokens(keys, logits, temperature=0.5)
  squares = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
  expected = squares / squares.sum()
  error = np.bincount(drawn, minlength=4) / rows - expected
  assert np.abs(error).max() < 4 * np.sqrt(0.25 / rows)
  assert expected[0] - 0.5 > 4 * np.sqrt(0.25 / rows)


def test_top_k_beyond_the_vocabulary_keeps_all_and_ties_stay():
  np.testing.assert_array_equal(sampling.filter_top_k(LOGITS, 9), LOGITS)
  equal = jnp.zeros((1, 4))
  np.testing.assert_array_equal(sampling.filter_top_k(equal, 2), equal)
  np.testing.assert_array_equal(sampling.filter_top_p(equal, 0.4), equal)


def test_a_row_depends_on_its_own_key_only():
  keys = jax.random.split(jax.random.key(0), 6)
  logits = jax.random.normal(jax.random.key(1), (6, 9))
  whole = tokens(keys, logits, temperature=1.0)
  part = tokens(keys[2:4], logits[2:4], temperature=1.0)
  np.testing.assert_array_equal(whole[2:4], part)


def test_a_draw_from_many_blocks_follows_the_probabilities():
  """A block, then a token of it; the last block is not full."""
  vocab, rows = 2 * sampling.BLOCK + 9, 20_000
  logits = 1.5 * jax.random.normal(jax.random.key(1), (vocab,))
  keys = jax.random.split(jax.random.key(0), rows)
  many = jnp.broadcast_to(logits, (rows, vocab))
  drawn, log_probs = sampling.sample(keys, many, temperature=0.8)
  expected = jax.nn.softmax(logits / 0.8)
  seen = np.bincount(drawn, minlength=vocab)
  square = np.sum((seen - rows * expected) ** 2 / (rows * expected))
  # Chi-squared with 264 degrees of freedom: mean 264, deviation 23.
  assert 264 - 4 * 23 < square < 264 + 4 * 23
  slow = logprobs.token_log_probs(many, drawn, temperature=0.8)
  np.testing.assert_allclose(log_probs, slow, atol=1e-5)


def test_log_probs_are_those_of_the_distribution_that_is_sampled():
  keys = jax.random.split(jax.random.key(0), 50)
  logits = jax.random.normal(jax.random.key(1), (50, 300))
  for top_k, top_p in ((3, 1.0), (0, 0.2), (9, 0.4)):
    drawn, log_probs = sampling.sample(
      keys, logits, temperature=0.7, top_k=top_k, top_p=top_p
    )
    cut = logits / 0.7
    cut = sampling.filter_top_k(cut, top_k) if top_k else cut
    cut = sampling.filter_top_p(cut, top_p) if top_p < 1 else cut
    slow = logprobs.token_log_probs(cut, drawn)
    np.testing.assert_allclose(log_probs, slow, atol=1e-5)
    whole = logprobs.token_log_probs(logits, drawn, temperature=0.7)
    assert float(jnp.min(log_probs - whole)) > 0.1
    rank = jnp.sum(logits > jnp.take_along_axis(logits, drawn[:, None], 1), 1)
    # Whole blocks are cut away.
    assert 0 < int(jnp.max(rank)) < 60
  drawn, log_probs = sampling.sample(keys, logits, temperature=0.0)
  np.testing.assert_array_equal(drawn, jnp.argmax(logits, axis=1))
  slow = logprobs.token_log_probs(logits, drawn)
  np.testing.assert_allclose(log_probs, slow, atol=1e-5)
