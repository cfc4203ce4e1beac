# SPDX-License-Identifier: Apache-2.0
"""The attention layer of decoders: projections, rotary, cache, grouped heads.

What is attended to, and how, is `models.attention` and
`models.prefix_attention`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlaif_jax.models import attention
from rlaif_jax.models import prefix_attention
from rlaif_jax.models import layers
from rlaif_jax.models import architecture_options as variant_lib


class Cached(NamedTuple):
  """What a layer has read: keys and values [B, K, S, C] to write into at
  `column`, the last keys [B, M, C], and what all rows began with, if they
  did."""

  keys: jax.Array
  values: jax.Array
  last_keys: jax.Array
  column: jax.Array
  beginning: prefix_attention.Beginning | None = None

  @property
  def columns(self) -> int:
    """Of the row, the beginning included."""
    own = self.keys.shape[2]
    return own + (self.beginning.keys.shape[2] if self.beginning else 0)

  def write(self, key: jax.Array, value: jax.Array) -> Cached:
    """With keys and values [B, K, L, C] of the next columns."""
    start = (0, 0, self.column, 0)

    def put(array, new):
      new = new.astype(array.dtype)
      return jax.lax.dynamic_update_slice(array, new, start)

    return self._replace(
      keys=put(self.keys, key), values=put(self.values, value)
    )


class Attention(nn.Module):
  """Rotary grouped-query self-attention.

  The first `variant.previous_key_heads` key heads use the key of the previous
  token instead of their own, which makes copying what followed an earlier
  token a one-layer affair (the smeared keys of arXiv:2209.11895, with the
  mixture fixed at the previous token). Public checkpoints have none (0).
  """

  num_heads: int
  num_kv_heads: int
  head_dim: int
  rope_theta: float
  is_local: bool
  norm_epsilon: float
  variant: variant_lib.Variant
  dtype: layers.Dtype

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    positions: jax.Array,
    valid: jax.Array,
    mask: jax.Array | attention.Blocks,
    cached: Cached | None = None,
    before: jax.Array | None = None,
    columns: jax.Array | None = None,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """Attends from x [B, L, D].

    Args:
      x: [B, L, D].
      positions: [B, L].
      valid: [B, L] bool, which columns of x are real.
      mask: [B, L, S]; S = L without a cache.
      cached: to write into and read from; S are its own columns.
      before: [B, L] the column of the token before each, where it is not the
        last real column before; -1 for what was cached before, if it was.
      columns: [B, T] queries alone; T is then L in `mask` and in the output.

    Returns:
      Output [B, L, D] and (keys, values, last keys) as they now stand; the
      last keys [B, L, M, C] of every column where there is `before`, since
      it has several texts in a row.
    """
    v = self.variant
    asking, asked_at = x, positions
    if columns is not None:
      asking = attention.take_columns(x, columns)
      asked_at = attention.take_columns(positions, columns)
    query = self._project(asking, self.num_heads, "heads", "query")
    key = self._project(x, self.num_kv_heads, "kv_heads", "key")
    value = self._project(x, self.num_kv_heads, "kv_heads", "value")
    if v.qk_norm:
      query = self._norm("query_norm")(query)
      key = self._norm("key_norm")(key)
    mixed = v.previous_key_heads
    if cached is None:
      last = jnp.zeros((x.shape[0], mixed, self.head_dim), key.dtype)
    else:
      last = cached.last_keys
    own = key[:, :, :mixed]
    if mixed:
      if before is None:
        previous, last = attention.previous_keys(own, valid, last)
      else:
        previous = attention.take_columns(own, jnp.maximum(before, 0))
        is_here = (before >= 0)[:, :, None, None]
        previous = jnp.where(is_here, previous, last[:, None])
      key = jnp.concatenate([previous, key[:, :, mixed:]], axis=2)
    if before is not None:
      last = own
    # A position is less than the number of columns.
    bound = x.shape[1] if cached is None else cached.columns
    turn = (self._frequencies(), bound)
    query = layers.rotary(query, layers.turns(asked_at, *turn))
    key = attention.heads_first(
      layers.rotary(key, layers.turns(positions, *turn))
    )
    value = attention.heads_first(value)
    if cached is not None:
      cached = cached.write(key, value)
      key, value = cached.keys, cached.values
    seen = (key, value, mask)
    if isinstance(mask, attention.Blocks):
      out = attention.attend_blocks(query, *seen, scale=v.query_scale)
    elif cached is not None and cached.beginning is not None:
      out = prefix_attention.attend_after(
        query, cached.beginning, *seen, scale=v.query_scale
      )
    else:
      out = attention.attend(query, *seen, scale=v.query_scale)
    out = layers.Projection(
      (x.shape[-1],),
      ("heads", "head_dim", "embed"),
      num_inputs=2,
      dtype=self.dtype,
      name="out",
    )(out)
    return out, (key, value, last)

  def _project(self, x, heads: int, axis: str, name: str) -> jax.Array:
    return layers.Projection(
      (heads, self.head_dim),
      ("embed", axis, "head_dim"),
      use_bias=self.variant.qkv_bias,
      dtype=self.dtype,
      name=name,
    )(x)

  def _norm(self, name: str) -> layers.RMSNorm:
    return layers.RMSNorm(
      self.norm_epsilon,
      self.dtype,
      offset=self.variant.norm_offset,
      axis="head_dim",
      name=name,
    )

  def _frequencies(self) -> jax.Array:
    v = self.variant
    if self.is_local and v.local_rope_theta:
      return variant_lib.rope_frequencies(
        self.head_dim, v.local_rope_theta, None
      )
    return variant_lib.rope_frequencies(
      self.head_dim, self.rope_theta, v.rope_scaling
    )


def match_keys_to_queries(params: Any, gain: float) -> None:
  """Makes each key head a copy of the first query head that reads it.

  Of the boxed parameters of an `Attention`; both times the gain.
  """
  query, key = params["query"]["kernel"], params["key"]["kernel"]
  group = query.value.shape[1] // key.value.shape[1]
  value = query.value * gain
  params["query"]["kernel"] = query.replace(value=value)
  params["key"]["kernel"] = key.replace(value=value[:, ::group])
