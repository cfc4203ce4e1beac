# SPDX-License-Identifier: Apache-2.0
"""Attention of many rows to a prefix that they share.

The keys and values of the prefix exist once and are not copied for each row:
the queries of all rows are the rows of one product with them.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlaif_jax.models import architecture_options as options_lib
from rlaif_jax.models import attention
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models import layouts


class Prefix(NamedTuple):
  """One layer's cache of a prefix of C columns, and the layout of its queries.

  The arrays of the cache have one row.
  """

  layer: cache_lib.LayerCache
  layout: layouts.Layout

  def at(self, columns: Int[Array, "B T"]) -> Prefix:
    """Returns the prefix for queries at these columns only."""
    return self._replace(layout=self.layout.at(columns))


def of_layers(
  cache: cache_lib.Cache, each: Sequence[layouts.Layout]
) -> list[tuple[Prefix, ...]]:
  """Returns, for each layer, the prefix with each of the layouts."""
  return [
    tuple(Prefix(layer, layout) for layout in each) for layer in cache.layers
  ]


def attend_after(
  query: Float[Array, "B L H C"],
  prefix: Prefix,
  key: Float[Array, "B K S C"],
  value: Float[Array, "B K S C"],
  layout: layouts.Layout,
  *,
  scale: float = 0.0,
  cap: float = 0.0,
) -> Float[Array, "B L H C"]:
  """`attention.attend` to a shared prefix and to each row's own columns.

  Args:
    query: queries.
    prefix: shared keys and values.
    key: keys of the row's own columns.
    value: values of the row's own columns.
    layout: of the queries and the own columns.
    scale: factor of the scores; 0 is C ** -0.5.
    cap: see `attention.attend`.
  """

  def block(tree):
    query, own, shared = tree
    masks = (shared.whole_mask(), own.whole_mask())
    return _attend(query, prefix.layer, key, value, masks, scale, cap)

  if layout.mask is not None:
    return block((query, layout, prefix.layout))

  def part(tree):
    query, own, shared = tree
    seen = prefix.layout.replace(queries=shared)
    return block((query, layout.replace(queries=own), seen))

  queries = (query, layout.queries, prefix.layout.queries)
  num_keys = key.shape[2] + prefix.layer.keys.shape[2]
  return layouts.in_blocks(part, queries, num_keys)


def _attend(query, prefix, key, value, masks, scale, cap):
  """Returns one softmax over both, masks of the prefix and of own columns.

  The sums over the prefix and over the row's own columns are added and divided
  by the sum of both parts' weights.
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
  shared = product("kqc,ksc->kqs", queries, prefix.keys[0])
  shared = shared.reshape(kv_heads, batch, group_size * length, -1)
  shared = masked(shared, masks[0], (0, 2))
  own = masked(product("bkqc,bksc->bkqs", query, key), masks[1], (1, 2))
  most = jnp.maximum(jnp.max(shared, axis=-1).swapaxes(0, 1), own.max(axis=-1))
  shared = jnp.exp(shared - most.swapaxes(0, 1)[..., None])
  own = jnp.exp(own - most[..., None])
  weight = shared.sum(axis=-1).swapaxes(0, 1) + own.sum(axis=-1)
  shared = shared.astype(value.dtype).reshape(*queries.shape[:2], -1)
  out = product("kqs,ksc->kqc", shared, prefix.values[0])
  out = out.reshape(kv_heads, batch, -1, channels).swapaxes(0, 1)
  out += product("bkqs,bksc->bkqc", own.astype(value.dtype), value)
  out = (out / weight[..., None]).astype(value.dtype)
  return attention.heads_first(out.reshape(batch, heads, length, channels))
