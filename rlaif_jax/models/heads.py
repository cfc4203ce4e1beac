# SPDX-License-Identifier: Apache-2.0
"""A decoder trunk with a scalar head: reward models and value networks.

A reward is the scalar at the last valid token, a value the scalar at every
position.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.models import continuations
from rlaif_jax.models import decoder
from rlaif_jax.models import layers
from rlaif_jax.models import layouts


class ScalarDecoder(nn.Module):
  """Trunk `decoder` and a head `head` [D, 1] with a bias, initialized to zero.

  With a zero head every reward and value is 0 before training, so the first
  pair loss is log 2. A subclass may replace the trunk.
  """

  config: decoder.DecoderConfig
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS

  decoder_type = decoder.Decoder

  def setup(self):
    self.decoder = self.decoder_type(self.config, self.options)
    self.head = layers.scalar_head()

  def __call__(
    self, tokens: Int[Array, "B L"], valid: Bool[Array, "B L"]
  ) -> Float[Array, "B L"]:
    """Returns a float32 scalar per token."""
    return self._scalars(self.decoder.read(tokens, valid))

  def read_packed(
    self, batch: batches.PackedBatch, endings: tuple[int, int] = (0, 0)
  ) -> Float[Array, "B T"]:
    """Returns a scalar per column; see `decoder.Decoder.read_packed`."""
    return self._scalars(self.decoder.read_packed(batch, endings))

  def _scalars(self, states: Float[Array, "B L D"]) -> Float[Array, "B L"]:
    return self.head(states.astype(jnp.float32))[..., 0]


def functions(
  config: decoder.DecoderConfig,
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS,
  *,
  module_type: type[ScalarDecoder] = ScalarDecoder,
) -> protocols.ScalarModel:
  """Returns the functions of a scalar decoder; see `architectures.scalar`."""
  module = module_type(config, options)

  def init(key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    return module.init(key, tokens, jnp.ones((1, 2), bool))["params"]

  def read(params, batch):
    return module.apply({"params": params}, batch.tokens, batch.valid)

  def read_packed(params, *args):
    return module.apply({"params": params}, *args, method="read_packed")

  def read_group(params, batch, columns):
    rows = continuations.pack(batch, columns)
    scalars = read_packed(params, rows, batch.response.shape[1:])
    return scalars.reshape(*batch.response.shape[:2], -1)

  def states(params, batch):
    if isinstance(batch, batches.GroupBatch):
      return read_group(params, batch, continuations.columns_around(batch))
    return read(params, batch)[:, -batch.weights.shape[1] - 1 :]

  def last(params, batch):
    if isinstance(batch, batches.GroupBatch):
      columns = continuations.last_columns(batch)
      return read_group(params, batch, columns)[..., 0]
    if isinstance(batch, batches.PackedBatch):
      return read_packed(params, batch.replace(columns=batch.last))
    return layouts.last_real(read(params, batch), batch.valid)

  return protocols.ScalarModel(
    init=init, states=states, last=last, is_causal=True
  )
