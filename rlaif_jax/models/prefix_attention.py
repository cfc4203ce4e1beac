# SPDX-License-Identifier: Apache-2.0
"""Attention of many rows to a beginning that all of them share.

Its keys and values are there once: the queries of all rows are rows of one
product with them, and nothing is copied for each row.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import jax
import jax.numpy as jnp

from rlaif_jax.models import attention
from rlaif_jax.models import cache as cache_lib


class Beginning(NamedTuple):
  """What a layer keeps of the beginning, and who sees which of its columns:
  keys and values [1, K, C, channels], mask [B or 1, L or 1, C]."""

  keys: jax.Array
  values: jax.Array
  mask: jax.Array

  def asked_by(self, columns: jax.Array) -> Beginning:
    """Of queries at some columns [B, T] alone."""
    if self.mask.shape[1] == 1:  # The same for all.
      return self
    return self._replace(mask=attention.take_columns(self.mask, columns))


def of_layers(
  cache: cache_lib.Cache, masks: Sequence[jax.Array]
) -> list[tuple[Beginning, ...]]:
  """Each layer's, with each of the masks, from the cache of one row."""
  return [
    tuple(Beginning(keys, values, mask) for mask in masks)
    for keys, values, _ in cache.layers()
  ]


def attend_after(
  query: jax.Array,
  beginning: Beginning,
  key: jax.Array,
  value: jax.Array,
  mask: jax.Array,
  *,
  scale: float = 0.0,
) -> jax.Array:
  """`attention.attend` to a beginning and, after it, to a row's own columns.

  One softmax over both parts: what is added up in each is divided at the end
  by the sum over both.

  Args:
    query: [B, L, H, channels].
    beginning: of all rows.
    key: [B, K, S, channels].
    value: [B, K, S, channels].
    mask: [B, L, S] bool.
    scale: of the scores; 0 is channels ** -0.5.

  Returns:
    [B, L, H, channels].
  """
  batch, length, heads, channels = query.shape
  kv_heads = key.shape[1]
  group = heads // kv_heads
  query = attention.heads_first(query)
  query = query.reshape(batch, kv_heads, group * length, channels)

  def masked(scores, mask, axes):
    # [.., .., G L, S], the mask's rows and columns where the scores have them.
    apart = scores.reshape(*scores.shape[:2], group, length, -1)
    found = apart * (scale or channels**-0.5)
    found = jnp.where(jnp.expand_dims(mask, axes), found, attention.MASKED)
    return found.reshape(scores.shape)

  def product(spec, a, b):
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)

  # Heads in front, so that the queries of all rows are one axis.
  queries = query.swapaxes(0, 1).reshape(kv_heads, -1, channels)
  first = product("kqc,ksc->kqs", queries, beginning.keys[0])
  first = first.reshape(kv_heads, batch, group * length, -1)
  first = masked(first, beginning.mask, (0, 2))
  own = masked(product("bkqc,bksc->bkqs", query, key), mask, (1, 2))
  most = jnp.maximum(jnp.max(first, axis=-1).swapaxes(0, 1), own.max(axis=-1))
  first = jnp.exp(first - most.swapaxes(0, 1)[..., None])
  own = jnp.exp(own - most[..., None])
  weight = first.sum(axis=-1).swapaxes(0, 1) + own.sum(axis=-1)
  first = first.astype(value.dtype).reshape(*queries.shape[:2], -1)
  out = product("kqs,ksc->kqc", first, beginning.values[0])
  out = out.reshape(kv_heads, batch, -1, channels).swapaxes(0, 1)
  out += product("bkqs,bksc->bkqc", own.astype(value.dtype), value)
  out = (out / weight[..., None]).astype(value.dtype)
  return attention.heads_first(out.reshape(batch, heads, length, channels))
