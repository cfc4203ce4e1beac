# SPDX-License-Identifier: Apache-2.0
"""Prompts read once are prompts read for each response: values, gradients."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.models import architectures
from rlaif_jax.models import attention
from rlaif_jax.models import continuations
from tests import testing
from tests.models import architectures_test

FAMILIES = architectures_test.FAMILIES
PROMPT, RESPONSE, GROUP = 6, 4, 3


def texts() -> batches.TokenBatch:
  """Two prompts with three responses each, of unequal lengths."""
  generator = np.random.default_rng(0)
  shape = (2 * GROUP, PROMPT + RESPONSE)
  tokens = generator.integers(3, architectures_test.VOCAB, shape)
  tokens[:, :PROMPT] = np.repeat(tokens[::GROUP, :PROMPT], GROUP, axis=0)
  valid = np.ones(tokens.shape, bool)
  valid[GROUP:, :2] = False
  for row, length in enumerate((4, 1, 2, 3, 0, 4)):
    valid[row, PROMPT + length :] = False
  return batches.TokenBatch(
    tokens=jnp.asarray(tokens, jnp.int32),
    valid=jnp.asarray(valid),
    weights=jnp.asarray(valid[:, PROMPT:], jnp.float32),
  )


def assert_same(separate, grouped, params):
  """Values, and the gradient of a weighted mean of them."""

  def both_of(function):
    def mean(params):
      values = function(params)
      weights = jax.random.normal(jax.random.key(5), values.shape)
      return jnp.mean(weights * values), values

    return jax.jit(jax.value_and_grad(mean, has_aux=True))(params)

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5),
    both_of(separate),
    both_of(grouped),
  )


@pytest.fixture(autouse=True)
def prompts_in_parts(monkeypatch):
  """Six columns are asked in four parts."""
  monkeypatch.setattr(attention, "CHUNK", 1)


@pytest.mark.parametrize(
  "name, scan_layers",
  [(name, False) for name in FAMILIES] + [("gemma3", True), ("t5_1_1", True)],
)
def test_responses_of_one_prompt(name, scan_layers):
  compute = compute_lib.ComputeConfig(scan_layers=scan_layers)
  options = architectures.ForwardOptions(compute=compute)
  model = architectures.language(FAMILIES[name], options)
  both = texts()
  weights = both.weights[..., None]

  def separate(params):
    return model.hidden(params, both) * weights

  def grouped(params):
    hidden = model.hidden(params, testing.grouped(both, GROUP))
    return hidden.reshape(weights.shape[:2] + (-1,)) * weights

  assert_same(separate, grouped, testing.build(model))


@pytest.mark.parametrize("name", ["small_world", "gemma3", "t5_1_1"])
def test_scalars_of_one_prompt(name):
  model = architectures.scalar(FAMILIES[name])
  params = testing.build(model)
  kernel = jax.random.normal(jax.random.key(1), (16, 1))
  params = {**params, "head": {**params["head"], "kernel": kernel}}
  both = texts()
  group = testing.grouped(both, GROUP)
  real = jnp.pad(both.weights, ((0, 0), (1, 0)), constant_values=1.0)

  def separate(params):
    states = model.states(params, both) * real
    return jnp.append(states, model.last(params, both)[:, None], axis=1)

  def grouped(params):
    states = model.states(params, group).reshape(real.shape) * real
    last = model.last(params, group).reshape(-1, 1)
    return jnp.append(states, last, axis=1)

  assert_same(separate, grouped, params)


def test_columns():
  group = testing.grouped(texts(), GROUP)
  row = continuations.pack(group)
  assert row.tokens.shape == (2, 18)
  np.testing.assert_array_equal(
    row.continuation_ids[0], [0] * 6 + [1] * 4 + [2] * 4 + [3] * 4
  )
  np.testing.assert_array_equal(row.segment_ids[1, :3], [0, 0, 1])
  np.testing.assert_array_equal(
    continuations.columns_before(group)[0],
    [5, 6, 7, 8, 5, 10, 11, 12, 5, 14, 15, 16],
  )
  assert continuations.columns_around(group)[0, 4] == 9
  np.testing.assert_array_equal(
    continuations.last_columns(group), [[9, 10, 15], [8, 5, 17]]
  )
