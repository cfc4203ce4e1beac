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


def test_a_row_depends_on_its_own_key_only():
  keys = jax.random.split(jax.random.key(0), 6)
  logits = jax.random.normal(jax.random.key(1), (6, 9))
  whole = sampling.sample(keys, logits, temperature=1.0)
  part = sampling.sample(keys[2:4], logits[2:4], temperature=1.0)
  np.testing.assert_array_equal(whole[2:4], part)
