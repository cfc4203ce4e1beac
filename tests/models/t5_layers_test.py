# SPDX-License-Identifier: Apache-2.0
"""The MLP with each activation, by hand."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.models import t5_config
from rlaif_jax.models import t5_layers

SIZES = dict(
  vocab_size=13,
  width=6,
  num_layers=2,
  num_decoder_layers=1,
  num_heads=2,
  head_dim=6,
  mlp_dim=5,
  max_length=64,
)
DEFINITIONS = {
  "linear": lambda x: x,
  "relu": lambda x: np.maximum(x, 0),
  "silu": lambda x: x / (1 + np.exp(-x)),
  "gelu": lambda x: (
    x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
  ),
}


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ["", *DEFINITIONS])
def test_mlp_by_hand(gated, activation):
  config = t5_config.T5Config(**SIZES, gated=gated, activation=activation)
  mlp = t5_layers.T5MLP(config)
  x = jax.random.normal(jax.random.key(0), (2, 3, 6))
  params = nn.unbox(mlp.init(jax.random.key(1), x)["params"])
  weights = {name: np.asarray(p["kernel"]) for name, p in params.items()}
  act = DEFINITIONS[activation or ("gelu" if gated else "relu")]
  if gated:
    inner = act(x @ weights["wi_0"]) * (x @ weights["wi_1"])
  else:
    inner = act(x @ weights["wi"])
  found = mlp.apply({"params": params}, x)
  np.testing.assert_allclose(found, inner @ weights["wo"], atol=1e-5)


@pytest.mark.parametrize("activation", t5_config.ACTIVATIONS)
def test_every_activation_exists(activation):
  assert activation == "linear" or jnp.shape(getattr(nn, activation)(0.5)) == ()
