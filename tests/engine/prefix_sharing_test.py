# SPDX-License-Identifier: Apache-2.0
"""Prompts with shared prefixes give the states of whole prompts."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.engine import prefix_sharing
from rlaif_jax.models import decoder
from tests import testing

FUNCTIONS = decoder.functions(testing.tiny_decoder(11))


@pytest.mark.parametrize("last_only", [False, True])
def test_states_and_cache_are_those_of_the_whole_prompts(last_only):
  params = testing.build(FUNCTIONS)
  prefix = prefix_sharing.prefill_prefix(
    FUNCTIONS, params, jnp.array([[3, 4]]), jnp.ones((1, 2), bool)
  )
  prompts = prefix_sharing.SharedPrompts(
    group_tokens=jnp.array([[5, 6]]),
    group_valid=jnp.ones((1, 2), bool),
    group_ids=jnp.array([0, 0]),
    suffix=jnp.array([[7, 8], [9, 2]]),
    suffix_valid=jnp.ones((2, 2), bool),
  )
  states, cache = prefix_sharing.prefill_shared(
    FUNCTIONS, params, prefix, prompts, 1, last_only=last_only
  )
  whole = jnp.array([[3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 9, 2]])
  valid = jnp.ones(whole.shape, bool)
  expected, whole_cache = FUNCTIONS.prefill(params, whole, valid, 1)
  assert states.shape[1] == (1 if last_only else 2)
  np.testing.assert_allclose(states[:, -1], expected, atol=1e-5)
  token, one = jnp.array([[1], [2]]), jnp.ones((2, 1), bool)
  np.testing.assert_allclose(
    FUNCTIONS.decode_step(params, token, one, cache, prefix)[0],
    FUNCTIONS.decode_step(params, token, one, whole_cache)[0],
    atol=1e-5,
  )
