# SPDX-License-Identifier: Apache-2.0
"""A decoder that learns to copy words fast, for launch/smoke.sh.

It differs from `decoder` in two ways. Some key heads use the key of the
previous token, so that one layer can copy what followed an earlier token
(smeared keys of arXiv:2209.11895, with the mixture fixed at the previous
token). Key kernels start as copies of query kernels, so that tokens attend to
equal tokens from the first step (after arXiv:2305.09828). Public checkpoints
have neither.
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core import protocols
from rlaif_jax.core import validation
from rlaif_jax.models import attention
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models import decoder
from rlaif_jax.models import decoder_block
from rlaif_jax.models import heads
from rlaif_jax.models import layers
from rlaif_jax.models import layouts
from rlaif_jax.models import prefix_attention
from rlaif_jax.models import self_attention


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallWorldConfig(decoder.DecoderConfig):
  """Sizes of a decoder with previous-token keys.

  Attributes:
    previous_key_heads: number of key heads, the first ones, that use the key
      of the previous token.
    match_gain: a language model's key kernels start as copies of its query
      kernels, both times this factor; 0 starts them independently.
  """

  previous_key_heads: validation.NonNegativeInt = 0
  match_gain: validation.NonNegativeFloat = 0.0

  def __post_init__(self):
    super().__post_init__()
    if self.previous_key_heads > self.num_kv_heads:
      raise ValueError(
        f"SmallWorldConfig.previous_key_heads is {self.previous_key_heads}; it "
        f"must be <= num_kv_heads = {self.num_kv_heads}"
      )
    if self.architecture_options.window:
      raise ValueError(
        "SmallWorldConfig.architecture_options.window is "
        f"{self.architecture_options.window}; previous-token keys need global "
        "layers (window = 0)"
      )


@flax.struct.dataclass
class SmallWorldLayerCache(cache_lib.LayerCache):
  """A layer's cache with the tokens' own keys of the M previous-key heads."""

  own_keys: Float[Array, "B M S C"]  # Without rotary embedding.


class SmallWorldAttention(self_attention.Attention):
  """Attention whose first key heads use the previous token's key."""

  previous_key_heads: int = 0

  def _attend(self, query, key, value, layout, cached, columns):
    own = key[:, :, : self.previous_key_heads]
    previous, own_keys = _previous_keys(own, layout, cached)
    key = jnp.concatenate(
      [previous, key[:, :, self.previous_key_heads :]], axis=2
    )
    out, layer = super()._attend(query, key, value, layout, cached, columns)
    return out, SmallWorldLayerCache(layer.keys, layer.values, own_keys)


def _previous_keys(
  own: Float[Array, "B L M C"],
  layout: layouts.Layout,
  cached: self_attention.CacheSlice | None,
) -> tuple[Float[Array, "B L M C"], Float[Array, "B M S C"]]:
  """Returns the previous token's keys (0 if none), and own keys of the cache.

  Args:
    own: keys of the new columns.
    layout: of all L columns.
    cached: cache that the columns continue.
  """
  # The previous token is the visible one whose position is one less.
  before = layout.positions[:, :, None] - 1 == layout.key_positions[:, None, :]
  before &= layout.whole_mask()
  column = jnp.argmax(before, axis=2)
  has_previous = jnp.any(before, axis=2)[:, :, None, None]
  own_keys = attention.heads_first(own)
  if cached is None:
    previous = layouts.take_columns(own, column)
    return jnp.where(has_previous, previous, 0), own_keys
  own_keys = cached.put(cached.layer.own_keys, own_keys)
  previous = attention.heads_first(
    jnp.take_along_axis(own_keys, column[:, None, :, None], axis=2)
  )
  return jnp.where(has_previous, previous, _last_key(cached.prefix)), own_keys


def _last_key(
  prefix: prefix_attention.Prefix | None,
) -> Float[Array, "1 1 M C"] | int:
  """Returns the own key of a prefix's last token, 0 if none."""
  if prefix is None:
    return 0
  valid = prefix.layout.mask[0, 0]
  last = jnp.max(jnp.where(valid, jnp.arange(valid.shape[0]), 0))
  key = jax.lax.dynamic_slice_in_dim(prefix.layer.own_keys, last, 1, axis=2)
  key = jnp.where(jnp.any(valid), key, 0)
  return attention.heads_first(key)


class SmallWorldBlock(decoder_block.Block):
  """A decoder layer with previous-token keys."""

  def attention_type(self, **sizes) -> SmallWorldAttention:
    heads = self.config.previous_key_heads
    return SmallWorldAttention(previous_key_heads=heads, **sizes)


class SmallWorldDecoder(decoder.Decoder):
  """A decoder with previous-token keys."""

  block_type = SmallWorldBlock


class SmallWorldScalar(heads.ScalarDecoder):
  """A scalar decoder with previous-token keys."""

  decoder_type = SmallWorldDecoder


def functions(
  config: SmallWorldConfig,
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS,
) -> protocols.LanguageModel:
  """Returns the functions of a language model; see `architectures.language`."""
  plain = decoder.functions(config, options, module_type=SmallWorldDecoder)

  def init(key):
    params = plain.init(key)
    if config.match_gain:
      for layer in range(config.num_layers):
        match_keys_to_queries(
          params[f"blocks_{layer}"]["attention"], config.match_gain
        )
    return params

  return dataclasses.replace(plain, init=init)


def scalar_functions(
  config: SmallWorldConfig,
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS,
) -> protocols.ScalarModel:
  """Returns the functions of a scalar model; see `architectures.scalar`."""
  return heads.functions(config, options, module_type=SmallWorldScalar)


def match_keys_to_queries(params: protocols.Params, gain: float) -> None:
  """Makes each key head a copy of the first query head that reads it.

  Args:
    params: boxed parameters of an attention layer, changed in place.
    gain: factor of both kernels.
  """
  query, key = params["query"]["kernel"], params["key"]["kernel"]
  group_size = query.value.shape[1] // key.value.shape[1]
  value = query.value * gain
  params["query"]["kernel"] = query.replace(value=value)
  params["key"]["kernel"] = key.replace(value=value[:, ::group_size])
