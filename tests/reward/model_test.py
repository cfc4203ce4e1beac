# SPDX-License-Identifier: Apache-2.0
"""The reward loss on pairs: by hand, swapped, padded, and learned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.models import heads
from rlaif_jax.reward import model
from tests import testing

CONFIG = testing.tiny_decoder(7)
FUNCTIONS = heads.functions(CONFIG)
LOSS = jax.jit(model.make_loss(FUNCTIONS))


@pytest.fixture(scope="module")
def params():
  tree = testing.build(FUNCTIONS)
  kernel = jax.random.normal(jax.random.key(1), (CONFIG.width, 1))
  return {**tree, "head": {**tree["head"], "kernel": kernel}}


def texts(seed):
  """Responses of three tokens; the prompts do not depend on the seed."""
  generator = np.random.default_rng(seed)
  valid = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
  tokens = np.array([[3, 4, 0, 0, 0], [5, 2, 0, 0, 0], [6, 6, 0, 0, 0]])
  tokens[:, 2:] = generator.integers(0, 7, (3, 3))
  return batches.TokenBatch(
    tokens=jnp.asarray(tokens, jnp.int32),
    valid=jnp.asarray(valid),
    weights=jnp.asarray(valid[:, 2:], jnp.float32),
  )


def pairs(label=(0.9, 0.3, 1.0), weight=(1.0, 1.0, 1.0)):
  return testing.pair_batch(
    first=texts(0),
    second=texts(1),
    label=jnp.asarray(label),
    weight=jnp.asarray(weight),
  )


def test_loss_by_hand(params):
  batch = pairs()
  first = FUNCTIONS.last(params, batch.first)
  second = FUNCTIONS.last(params, batch.second)
  chance = 1 / (1 + np.exp(-(np.asarray(first) - np.asarray(second))))
  p = np.asarray(batch.label)
  expected = -(p * np.log(chance) + (1 - p) * np.log(1 - chance))
  loss, metrics = LOSS(params, batch, None)
  np.testing.assert_allclose(loss.mean(), expected.mean(), rtol=1e-5)
  correct = (chance > 0.5) == (p > 0.5)
  np.testing.assert_allclose(metrics["accuracy"].mean(), correct.mean())


def test_swapping_a_pair_and_its_label_changes_nothing(params):
  batch = pairs()
  swapped = testing.pair_batch(
    first=batch.second,
    second=batch.first,
    label=1 - batch.label,
    weight=batch.weight,
  )
  a, b = LOSS(params, batch, None)[0], LOSS(params, swapped, None)[0]
  np.testing.assert_allclose(a.mean(), b.mean(), rtol=1e-6)


def test_padding_and_rows_without_weight_change_nothing(params):
  batch = pairs(weight=(1.0, 1.0, 0.0))
  loss = LOSS(params, batch, None)[0]
  spoiled = jax.tree.map(lambda x: x, batch)
  texts = batch.texts
  response = np.where(texts.response_valid, texts.response, 3)
  response[2] = 5
  spoiled = spoiled.replace(
    texts=texts.replace(response=response),
    label=batch.label.at[2].set(0.0),
  )
  other = LOSS(params, spoiled, None)[0]
  np.testing.assert_allclose(loss.mean(), other.mean(), rtol=1e-6)
  assert float(loss.weight) == 2.0


def test_two_texts_that_differ_get_different_rewards(params):
  """Trap: pad = eos, reward read at the prompt's end, the same for both."""
  batch = pairs()
  first, second = model.pair_rewards(FUNCTIONS, params, batch)
  assert np.abs(np.asarray(first - second)).min() > 1e-4


def test_a_fresh_model_has_loss_log_two():
  fresh = testing.build(FUNCTIONS)
  loss = LOSS(fresh, pairs(), None)[0]
  np.testing.assert_allclose(loss.mean(), np.log(2), rtol=1e-6)
