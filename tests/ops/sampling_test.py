# SPDX-License-Identifier: Apache-2.0
"""Cuts by hand, greedy, and independence of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.ops import sampling

LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))


def test_top_k_and_top_p_by_hand():
  kept = np.isfinite(sampling.filter_top_k(LOGITS, 2))[0]
  np.testing.assert_array_equal(kept, [True, True, False, False])
  for top_p, count in ((0.4, 1), (0.6, 2), (0.79, 2), (0.9, 3), (0.99, 4)):
    assert np.isfinite(sampling.filter_top_p(LOGITS, top_p)).sum() == count


def test_cuts_are_applied_when_sampling():
  keys = jax.random.split(jax.random.key(0), 300)
  logits = jnp.repeat(LOGITS, 300, axis=0)
  plain = sampling.sample(keys, logits, temperature=1.0)
  assert set(np.asarray(plain)) == {0, 1, 2, 3}
  top_k = sampling.sample(keys, logits, temperature=1.0, top_k=2)
  assert set(np.asarray(top_k)) == {0, 1}
  top_p = sampling.sample(keys, logits, temperature=1.0, top_p=0.4)
  assert set(np.asarray(top_p)) == {0}
  greedy = sampling.sample(keys, logits, temperature=0.0)
  assert set(np.asarray(greedy)) == {0}


def test_frequencies_follow_the_temperature():
  """At 0.5 the probabilities are squared and normalised again."""
  rows = 4000
  keys = jax.random.split(jax.random.key(0), rows)
  logits = jnp.repeat(LOGITS, rows, axis=0)
  drawn = sampling.sample(keys, logits, temperature=0.5)
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
  whole = sampling.sample(keys, logits, temperature=1.0)
  part = sampling.sample(keys[2:4], logits[2:4], temperature=1.0)
  np.testing.assert_array_equal(whole[2:4], part)
