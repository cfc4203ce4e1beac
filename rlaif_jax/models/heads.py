# SPDX-License-Identifier: Apache-2.0
"""A decoder trunk with a scalar head: reward models and value networks.

One module serves both: a reward is the scalar at the last real token, a value
is the scalar at every position.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlaif_jax.core import protocols
from rlaif_jax.models import decoder


class ScalarDecoder(nn.Module):
  """Trunk `decoder` and a zero-initialised head `head` [D, 1] with a bias.

  A zero head makes every reward and value 0 before training, so the first
  pair loss is log 2 and the first baseline is neutral.
  """

  config: decoder.DecoderConfig

  def setup(self):
    self.decoder = decoder.Decoder(self.config)
    self.head = nn.Dense(
      1,
      dtype=jnp.float32,
      kernel_init=nn.with_logical_partitioning(
        nn.initializers.zeros, ("embed", "scalar")
      ),
      bias_init=nn.with_logical_partitioning(
        nn.initializers.zeros, ("scalar",)
      ),
    )

  def __call__(self, tokens: jax.Array, valid: jax.Array) -> jax.Array:
    """[B, L] -> float32 scalar per position [B, L]."""
    hidden = self.decoder.hidden(tokens, valid)
    return self.head(hidden.astype(jnp.float32))[..., 0]


def last_real(values: jax.Array, valid: jax.Array) -> jax.Array:
  """Values [B, L] at the last valid column of each row -> [B].

  By index, never by looking for a pad id: a model whose pad is its end token
  reads the right place. Rows without a real token read column 0.
  """
  length = valid.shape[1]
  columns = jnp.where(valid, jnp.arange(length)[None], 0)
  last = jnp.max(columns, axis=1, keepdims=True)
  return jnp.take_along_axis(values, last, axis=1)[:, 0]


def functions(config: decoder.DecoderConfig) -> protocols.ScalarModel:
  """The plain functions of a scalar decoder, params first."""
  module = ScalarDecoder(config)

  def init(key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    return module.init(key, tokens, jnp.ones((1, 2), bool))["params"]

  def per_token(params, tokens, valid):
    return module.apply({"params": params}, tokens, valid)

  def last(params, tokens, valid):
    return last_real(per_token(params, tokens, valid), valid)

  return protocols.ScalarModel(init=init, per_token=per_token, last=last)
