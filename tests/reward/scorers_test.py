# SPDX-License-Identifier: Apache-2.0
"""Scorers give the reward that the model was trained to give."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.models import heads
from rlaif_jax.reward import scorers
from tests import testing

CONFIG = testing.tiny_decoder(7)
FUNCTIONS = heads.functions(CONFIG)


def build():
  tree = testing.build(FUNCTIONS)
  kernel = jax.random.normal(jax.random.key(1), (CONFIG.width, 1))
  return {**tree, "head": {**tree["head"], "kernel": kernel}}


def prompts():
  tokens = jnp.array([[0, 3, 4], [5, 6, 2]])
  valid = jnp.array([[0, 1, 1], [1, 1, 1]], bool)
  return batches.PromptBatch(
    prompt=tokens,
    prompt_valid=valid,
    context=tokens,
    context_valid=valid,
    row=jnp.arange(2),
  )


# [B, N, R] with N = 1.
RESPONSE = jnp.array([[[4, 1, 6]], [[3, 5, 1]]])
MASK = jnp.array([[[1.0, 1, 0]], [[1, 1, 1]]])


def test_reward_is_that_of_the_bare_text():
  params = build()
  result = scorers.reward_scorer(FUNCTIONS)(params, prompts(), RESPONSE, MASK)
  for row, ids in enumerate(([3, 4, 4, 1], [5, 6, 2, 3, 5, 1])):
    text = jnp.asarray([ids])
    alone = FUNCTIONS.last(
      params, testing.whole_batch(text, jnp.ones(text.shape, bool), 1)
    )
    np.testing.assert_allclose(result[row, 0], alone[0], atol=1e-5)


def test_standardized_shifts_and_scales():
  inner = scorers.reward_scorer(FUNCTIONS)
  params = build()
  raw = inner(params, prompts(), RESPONSE, MASK)
  unit = scorers.Standardized(
    params=params, shift=jnp.float32(0.5), scale=jnp.float32(2.0)
  )
  result = scorers.standardized(inner)(unit, prompts(), RESPONSE, MASK)
  np.testing.assert_allclose(result, (raw - 0.5) / 2.0, rtol=1e-6)


def test_responses_of_one_prompt_are_scored_as_if_alone():
  params = build()
  score = scorers.reward_scorer(FUNCTIONS)
  responses = jnp.concatenate([RESPONSE, RESPONSE[::-1]], axis=1)
  mask = jnp.concatenate([MASK, MASK[::-1]], axis=1)
  found = score(params, prompts(), responses, mask)
  assert found.shape == (2, 2)
  for row, sample in np.ndindex(2, 2):
    own = jax.tree.map(lambda x, at=row: x[at : at + 1], prompts())
    one = (x[row, sample][None, None] for x in (responses, mask))
    alone = score(params, own, *one)
    np.testing.assert_allclose(found[row, sample], alone[0, 0], atol=1e-5)
