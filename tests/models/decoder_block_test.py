# SPDX-License-Identifier: Apache-2.0
"""A layer at some columns gives the same as at all columns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.models import decoder_block
from rlaif_jax.models import layouts
from tests.models import architectures_test


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_some_columns_are_those_of_all(name):
  config = architectures_test.FAMILIES[name]
  block = decoder_block.Block(config, is_local=False)
  x = jax.random.normal(jax.random.key(0), (2, 6, config.width))
  valid = jnp.arange(6)[None] >= jnp.array([[0], [2]])
  layout = layouts.causal_layout(valid)
  params = block.init(jax.random.key(1), x, layout)
  whole, _ = block.apply(params, x, layout)
  columns = jnp.array([[5, 1], [4, 3]])
  found, _ = block.apply(params, x, layout, columns=columns)
  expected = layouts.take_columns(whole, columns)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert np.std(expected - layouts.take_columns(x, columns)) > 0.1
