# SPDX-License-Identifier: Apache-2.0
"""A decoder trunk with a scalar head: reward models and value networks.

One module serves both: a reward is the scalar at the last real token, a value
is the scalar at every position.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlaif_jax.core import protocols
from rlaif_jax.models import attention
from rlaif_jax.models import continuations
from rlaif_jax.models import decoder
from rlaif_jax.models import layers


class ScalarDecoder(nn.Module):
  """Trunk `decoder` and a zero-initialised head `head` [D, 1] with a bias.

  A zero head makes every reward and value 0 before training, so the first
  pair loss is log 2 and the first baseline is neutral.
  """

  config: decoder.DecoderConfig
  how: layers.Execution = layers.PLAIN

  def setup(self):
    self.decoder = decoder.Decoder(self.config, self.how)
    self.head = layers.scalar_head()

  def __call__(self, tokens: jax.Array, valid: jax.Array) -> jax.Array:
    """[B, L] -> float32 scalar per position [B, L]."""
    return self._scalar(self.decoder.read(tokens, valid))

  def read_branches(self, *row: Any) -> jax.Array:
    """Scalars [B, T] of columns; see `decoder.Decoder.read_branches`."""
    return self._scalar(self.decoder.read_branches(*row))

  def _scalar(self, hidden: jax.Array) -> jax.Array:
    return self.head(hidden.astype(jnp.float32))[..., 0]


def functions(
  config: decoder.DecoderConfig, how: layers.Execution = layers.PLAIN
) -> protocols.ScalarModel:
  """The plain functions of a scalar decoder, params first."""
  module = ScalarDecoder(config, how)

  def init(key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    return module.init(key, tokens, jnp.ones((1, 2), bool))["params"]

  def read(params, batch):
    return module.apply({"params": params}, batch.tokens, batch.valid)

  def states(params, batch):
    return read(params, batch)[:, -batch.weights.shape[1] - 1 :]

  def last(params, batch):
    return attention.last_real(read(params, batch), batch.valid)

  def read_branches(params, *row):
    return module.apply({"params": params}, *row, method="read_branches")

  def states_group(params, batch):
    row = continuations.row_of(batch)
    columns = continuations.columns_around(batch)
    states = read_branches(params, *row, columns, batch.response.shape[1:])
    return states.reshape(*batch.response.shape[:2], -1)

  def last_group(params, batch):
    row = continuations.row_of(batch)
    columns = continuations.last_columns(batch)
    return read_branches(params, *row, columns, batch.response.shape[1:])

  def last_packed(params, batch):
    row = (batch.tokens, batch.document, batch.branch)
    return read_branches(params, *row, batch.last)

  return protocols.ScalarModel(
    init=init,
    states=states,
    last=last,
    states_group=states_group,
    last_group=last_group,
    last_packed=last_packed,
  )
