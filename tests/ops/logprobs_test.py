# SPDX-License-Identifier: Apache-2.0
"""Log-probs, entropy and KL from their definitions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.ops import logprobs

LOGITS = [0.5, -1.0, 2.0]


def by_hand(temperature):
  weights = [math.exp(x / temperature) for x in LOGITS]
  return [w / sum(weights) for w in weights]


@pytest.mark.parametrize("temperature", [1.0, 0.9, 0.3])
def test_token_log_probs(temperature):
  result = logprobs.token_log_probs(
    jnp.array([LOGITS] * 3), jnp.arange(3), temperature=temperature
  )
  expected = [math.log(p) for p in by_hand(temperature)]
  np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_extreme_and_low_precision_logits_stay_finite():
  logits = jnp.array([[1e4, 0.0, -1e4]], jnp.bfloat16)
  result = logprobs.token_log_probs(logits, jnp.array([0]))
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, 0.0, atol=1e-6)


def test_sequence_log_prob_reads_no_padding():
  mask = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
  log_probs = jnp.array([[-1.0, -2.0, jnp.nan], [jnp.inf, -1.0, -1.0]])
  total = logprobs.sequence_log_prob(log_probs, mask)
  np.testing.assert_array_equal(total, [-3.0, 0.0])
  gradient = jax.grad(lambda x: logprobs.sequence_log_prob(x, mask).sum())
  np.testing.assert_array_equal(gradient(log_probs), mask)


def test_the_first_ratio_is_one_at_the_sampling_temperature_only():
  """Trap: rollout and trainer divide by different temperatures."""
  logits = jax.random.normal(jax.random.key(0), (4, 3, 7))
  tokens = jnp.argmin(logits, axis=-1)
  sampled = logprobs.token_log_probs(logits, tokens, temperature=0.9)
  again = logprobs.token_log_probs(logits, tokens, temperature=0.9)
  np.testing.assert_array_equal(jnp.exp(again - sampled), jnp.ones((4, 3)))
  other = jnp.exp(logprobs.token_log_probs(logits, tokens) - sampled)
  assert np.abs(other - 1.0).max() > 0.1


def test_entropy_and_kl_at_a_temperature():
  p, q = by_hand(0.3), [1 / 3] * 3
  result = logprobs.entropy(jnp.array(LOGITS), temperature=0.3)
  expected = -sum(x * math.log(x) for x in p)
  np.testing.assert_allclose(result, expected, rtol=1e-4)
  result = logprobs.kl_full(jnp.array(LOGITS), jnp.zeros(3), temperature=0.3)
  expected = sum(x * math.log(x / y) for x, y in zip(p, q))
  np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_entropy_and_kl():
  p, q = by_hand(1.0), [1 / 3] * 3
  entropy = -sum(x * math.log(x) for x in p)
  np.testing.assert_allclose(
    logprobs.entropy(jnp.array(LOGITS)), entropy, rtol=1e-5
  )
  kl = sum(x * math.log(x / y) for x, y in zip(p, q))
  result = logprobs.kl_full(jnp.array(LOGITS), jnp.zeros(3))
  np.testing.assert_allclose(result, kl, rtol=1e-5)
  same = logprobs.kl_full(jnp.array(LOGITS), jnp.array(LOGITS))
  np.testing.assert_allclose(same, 0.0, atol=1e-7)
