# SPDX-License-Identifier: Apache-2.0
"""The difference model: antisymmetric, both responses read, loss by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.models import heads
from rlaif_jax.reward import difference
from tests import testing

VOCAB, ROWS = 11, 6
MODEL = heads.functions(testing.tiny_decoder(VOCAB, num_layers=1))


def params():
  made = testing.build(MODEL)
  kernel = jax.random.normal(jax.random.key(3), made["head"]["kernel"].shape)
  return {**made, "head": {**made["head"], "kernel": kernel}}


def side(seed):
  """The same prompts of two tokens, other responses of up to five."""
  generator = np.random.default_rng(seed)
  ids = generator.integers(2, VOCAB, (ROWS, 7))
  ids[:, :2] = np.random.default_rng(99).integers(2, VOCAB, (ROWS, 2))
  valid = np.arange(7)[None] < generator.integers(3, 8, ROWS)[:, None]
  return testing.whole_batch(jnp.asarray(ids), jnp.asarray(valid), 5)


def test_it_is_antisymmetric_whatever_the_parameters():
  a, b = side(0), side(1)
  there = difference.difference(MODEL, params(), a, b)
  back = difference.difference(MODEL, params(), b, a)
  np.testing.assert_array_equal(there, -back)
  assert np.abs(there).min() > 0
  same = difference.difference(MODEL, params(), a, a)
  np.testing.assert_array_equal(same, np.zeros(ROWS))


def test_both_responses_stand_after_the_prompt_without_their_padding():
  a, b = side(0), side(1)
  both = difference.together(a, b)
  assert both.tokens.shape == (ROWS, 12)
  for row in range(ROWS):
    expected = [
      *a.tokens[row][a.valid[row]],
      *b.tokens[row, 2:][b.valid[row, 2:]],
    ]
    np.testing.assert_array_equal(both.tokens[row][both.valid[row]], expected)


def test_the_loss_by_hand():
  a, b = side(0), side(1)
  label = np.array([1, 0, 1, 0.3, 1, 1], np.float32)
  weight = np.array([1, 1, 2, 1, 1, 0], np.float32)
  pairs = testing.pair_batch(first=a, second=b, label=label, weight=weight)
  forward, backward = difference.both_orders(MODEL, params(), a, b)

  def cost(d, p):
    d = float(d)
    return p * np.log1p(np.exp(-d)) + (1 - p) * np.log1p(np.exp(d))

  expected = sum(
    w * (cost(f, p) + cost(-r, p)) / 2
    for f, r, p, w in zip(forward, backward, label, weight)
  )
  total, metrics = difference.make_loss(MODEL)(params(), pairs, None)
  np.testing.assert_allclose(total.total, expected, rtol=1e-5)
  turned = testing.pair_batch(first=b, second=a, label=1 - label, weight=weight)
  other, _ = difference.make_loss(MODEL)(params(), turned, None)
  np.testing.assert_allclose(total.total, other.total, rtol=1e-5)
  expected = np.average(np.abs(forward + backward), weights=weight)
  np.testing.assert_allclose(metrics["position"].mean(), expected, rtol=1e-5)
