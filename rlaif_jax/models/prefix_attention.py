# SPDX-License-Identifier: Apache-2.0
"""Attention of many rows to a prefix that they share.

The keys and values of the prefix exist once and are not copied for each row:
the queries of all rows are the rows of one product with them.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.models import architecture_options as options_lib
from rlaif_jax.models import attention
from rlaif_jax.models import cache as cache_lib


class Prefix(NamedTuple):
  """One layer's cache of a prefix of C columns, and its attention mask."""

  layer: cache_lib.LayerCache  # Arrays of one row.
  mask: Bool[Array, "#B #L C"]

  def at(self, columns: Int[Array, "B T"]) -> Prefix:
    """Returns the prefix for queries at these columns only."""
    if self.mask.shape[1] == 1:  # The same for all queries.
      return self
    return self._replace(mask=attention.take_columns(self.mask, columns))


def of_layers(
  cache: cache_lib.Cache, masks: Sequence[Bool[Array, "#B #L C"]]
) -> list[tuple[Prefix, ...]]:
  """Returns, for each layer, the prefix with each of the masks."""
  return [
    tuple(Prefix(layer, mask) for mask in masks) for layer in cache.layers
  ]


def attend_after(
  query: Float[Array, "B L H C"],
  prefix: Prefix,
  key: Float[Array, "B K S C"],
  value: Float[Array, "B K S C"],
  mask: Bool[Array, "B L S"],
  *,
  scale: float = 0.0,
  cap: float = 0.0,
) -> Float[Array, "B L H C"]:
  """`attention.attend` to a shared prefix and to each row's own columns.

  One softmax over both: the sums over the prefix and over the row's own
  columns are added and divided by the sum of both parts' weights.

  Args:
    query: queries.
    prefix: shared keys and values.
    key: keys of the row's own columns.
    value: values of the row's own columns.
    mask: whether a query attends to an own column.
    scale: factor of the scores; 0 is C ** -0.5.
    cap: see `attention.attend`.
  """
  batch, length, heads, channels = query.shape
  kv_heads = key.shape[1]
  group_size = heads // kv_heads
  query = attention.heads_first(query)
  query = query.reshape(batch, kv_heads, group_size * length, channels)

  def masked(scores, mask, axes):
    # The queries of a group share the mask.
    split = scores.reshape(*scores.shape[:2], group_size, length, -1)
    found = options_lib.soft_cap(split * (scale or channels**-0.5), cap)
    found = jnp.where(jnp.expand_dims(mask, axes), found, attention.MASKED)
    return found.reshape(scores.shape)

  def product(spec, a, b):
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)

  # Heads in front, so that the queries of all rows are one axis.
  queries = query.swapaxes(0, 1).reshape(kv_heads, -1, channels)
  shared = product("kqc,ksc->kqs", queries, prefix.layer.keys[0])
  shared = shared.reshape(kv_heads, batch, group_size * length, -1)
  shared = masked(shared, prefix.mask, (0, 2))
  own = masked(product("bkqc,bksc->bkqs", query, key), mask, (1, 2))
  most = jnp.maximum(jnp.max(shared, axis=-1).swapaxes(0, 1), own.max(axis=-1))
  shared = jnp.exp(shared - most.swapaxes(0, 1)[..., None])
  own = jnp.exp(own - most[..., None])
  weight = shared.sum(axis=-1).swapaxes(0, 1) + own.sum(axis=-1)
  shared = shared.astype(value.dtype).reshape(*queries.shape[:2], -1)
  out = product("kqs,ksc->kqc", shared, prefix.layer.values[0])
  out = out.reshape(kv_heads, batch, -1, channels).swapaxes(0, 1)
  out += product("bkqs,bksc->bkqc", own.astype(value.dtype), value)
  out = (out / weight[..., None]).astype(value.dtype)
  return attention.heads_first(out.reshape(batch, heads, length, channels))
