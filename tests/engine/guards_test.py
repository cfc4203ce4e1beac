# SPDX-License-Identifier: Apache-2.0
"""Steps that compile again or visit the host are told."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.engine import guards


def test_recompilation_is_an_error_after_warmup():
  step = jax.jit(lambda x: 2 * x + 1)
  one, two = jnp.ones(3), jnp.ones(5)
  with guards.no_recompilation("step 1", is_warm=False):
    step(one)
  with guards.no_recompilation("step 2", is_warm=True):
    step(one)
  with pytest.raises(AssertionError, match=r"step 3 compiled \d+ program"):
    with guards.no_recompilation("step 3", is_warm=True):
      step(two)


def test_implicit_transfers_are_errors():
  step = jax.jit(lambda x, y: x + y)
  x, y = jnp.ones(3), np.ones(3, np.float32)
  step(x, y)
  with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
    with guards.no_recompilation("step", is_warm=True):
      step(x, y)
  with guards.no_recompilation("step", is_warm=True):
    step(x, jax.device_put(y))


def test_batches_of_one_shape_have_one_signature():
  batch = {"a": np.ones((2, 3)), "b": np.ones(2, np.int32)}
  other = {"a": np.zeros((2, 3)), "b": np.ones(2, np.int32)}
  assert guards.signature(batch) == guards.signature(other)
  for wrong in (np.ones((3, 3)), np.ones((2, 3), np.float32)):
    assert guards.signature({**batch, "a": wrong}) != guards.signature(batch)
