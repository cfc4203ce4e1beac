# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention, masks, and the key/value cache as a plain value.

Positions and masks come from `valid`, never from a pad id, so padding may
stand anywhere in a row and changes nothing.
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from rlaif_jax.models import layers
from rlaif_jax.models import variant as variant_lib

# A finite stand-in for minus infinity: a row with nothing to attend to gives
# a uniform average instead of NaN; such rows are padding and are never read.
MASKED = -1e30


@flax.struct.dataclass
class Cache:
  """Keys and values of the columns that a model has read.

  keys, values: one [B, K, S, C] array per layer, so that a token's reading of
  a row is K products with matrices that lie in one piece; last_keys: one
  [B, M, C] per layer, the unrotated keys of the last real token in the M heads
  that use the previous token's key; places: [B, S] int32, the position of each
  column's token, -1 where there is none, so that columns may stand in any
  order; column: the next column to write, and first: the one that comes after
  the last, scalars int32.
  """

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  last_keys: tuple[jax.Array, ...]
  places: jax.Array
  column: jax.Array
  first: jax.Array


def widen(cache: Cache, room: int) -> Cache:
  """The cache with `room` empty columns more, which are the next to write."""
  columns = cache.places.shape[1]
  pad = ((0, 0), (0, 0), (0, room), (0, 0))
  return cache.replace(
    keys=tuple(jnp.pad(key, pad) for key in cache.keys),
    values=tuple(jnp.pad(value, pad) for value in cache.values),
    places=jnp.pad(cache.places, pad[1:3], constant_values=-1),
    column=jnp.asarray(columns, jnp.int32),
    first=jnp.asarray(columns, jnp.int32),
  )


def put_row(
  cache: Cache, row: jax.Array, other: Cache, number: jax.Array
) -> Cache:
  """Row `number` of another cache, which may be narrower, as row `row`.

  Where columns are written next stays as it was.
  """

  def put(array, rows):
    new = jax.lax.dynamic_slice_in_dim(rows, number, 1)
    start = (row,) + (0,) * (array.ndim - 1)
    return jax.lax.dynamic_update_slice(array, new, start)

  arrays = (cache.keys, cache.values, cache.last_keys)
  others = (other.keys, other.values, other.last_keys)
  keys, values, last_keys = jax.tree.map(put, arrays, others)
  missing = cache.places.shape[1] - other.places.shape[1]
  places = jnp.pad(other.places, ((0, 0), (0, missing)), constant_values=-1)
  return cache.replace(
    keys=keys,
    values=values,
    last_keys=last_keys,
    places=put(cache.places, places),
  )


def positions_from_valid(valid: jax.Array, start: jax.Array | int = 0):
  """[B, L] bool -> [B, L] int32 position of each real token in its row."""
  return jnp.maximum(start + jnp.cumsum(valid, axis=1) - 1, 0)


def last_real(values: jax.Array, valid: jax.Array) -> jax.Array:
  """Values [B, L, ...] at the last valid column of each row -> [B, ...].

  By index, never by looking for a pad id: a model whose pad is its end token
  reads the right place. Rows without a real token read column 0.
  """
  columns = jnp.where(valid, jnp.arange(valid.shape[1])[None], 0)
  last = jnp.max(columns, axis=1)
  last = last.reshape(last.shape + (1,) * (values.ndim - 1))
  return jnp.take_along_axis(values, last, axis=1)[:, 0]


def causal_mask(valid: jax.Array) -> jax.Array:
  """[B, L] -> [B, L, L]: query i sees real key j when j <= i."""
  length = valid.shape[1]
  causal = jnp.tril(jnp.ones((length, length), bool))
  return causal[None] & valid[:, None, :]


def branch_mask(document: jax.Array, branch: jax.Array) -> jax.Array:
  """Who sees whom in rows of several texts whose endings branch.

      document [ 1 1 1 1 1 1 2 2 2 0 ]   0 is padding
      branch   [ 0 0 1 1 2 2 0 0 1 0 ]   0 is what all branches begin with

  Args:
    document: [B, L] int32.
    branch: [B, L] int32.

  Returns:
    [B, L, L] bool: query i sees real key j when j <= i, both are of one
    document, and j is of its beginning or of the same branch.
  """
  length = document.shape[1]
  real = document > 0
  same = document[:, :, None] == document[:, None, :]
  mine = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
  causal = jnp.tril(jnp.ones((length, length), bool))
  return causal[None] & same & mine & real[:, None, :]


def previous_columns(mask: jax.Array) -> jax.Array:
  """[B, L, L] -> [B, L]: the last column before its own that each column
  sees, or -1."""
  columns = jnp.arange(mask.shape[1])
  before = columns[None, :] < columns[:, None]
  seen = mask & before[None]
  return jnp.max(jnp.where(seen, columns[None, None], -1), axis=2)


def take_columns(x: jax.Array, columns: jax.Array) -> jax.Array:
  """[B, L, ...] at columns [B, T] of each row -> [B, T, ...]."""
  columns = columns.reshape(columns.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, columns, axis=1)


def within_window(
  positions: jax.Array, key_positions: jax.Array, window: int
) -> jax.Array:
  """[B, L], [B, S] -> [B, L, S]: key at most window - 1 tokens back.

  By position, so that padding inside a row does not use up the window.
  """
  return positions[:, :, None] - key_positions[:, None, :] < window


def heads_first(x: jax.Array) -> jax.Array:
  """[B, L, K, C] -> [B, K, L, C]."""
  return jnp.swapaxes(x, 1, 2)


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  mask: jax.Array,
  *,
  scale: float = 0.0,
  bias: jax.Array | None = None,
) -> jax.Array:
  """Softmax attention with H = G * K query heads; softmax in float32.

  Keys and values have their heads in front, as caches have them and as
  products need them.

  Args:
    query: [B, L, H, C].
    key: [B, K, S, C].
    value: [B, K, S, C].
    mask: [B, L, S] bool.
    scale: of the scores; 0 is C ** -0.5.
    bias: [B, H, L, S], added to the scores.

  Returns:
    [B, L, H, C].
  """
  batch, length, heads, channels = query.shape
  kv_heads = key.shape[1]
  # The queries of all heads that share a key are rows of one product.
  joined = (batch, kv_heads, heads // kv_heads * length, channels)
  apart = (batch, kv_heads, heads // kv_heads, length)
  query = heads_first(query).reshape(joined)
  scores = jnp.einsum(
    "bkqc,bksc->bkqs", query, key, preferred_element_type=jnp.float32
  ) * (scale or channels**-0.5)
  scores = scores.reshape(*apart, -1)
  if bias is not None:
    scores = scores + bias.reshape(scores.shape)
  scores = jnp.where(mask[:, None, None], scores, MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  weights = weights.reshape(*joined[:3], -1)
  out = jnp.einsum("bkqs,bksc->bkqc", weights, value)
  return heads_first(out.reshape(batch, heads, length, channels))


def previous_keys(
  key: jax.Array, valid: jax.Array, last: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The key of the real token before each column, padding skipped.

  Args:
    key: [B, L, M, C].
    valid: [B, L] bool.
    last: [B, M, C] key of the last real token before these columns.

  Returns:
    [B, L, M, C], and the new `last` [B, M, C].
  """
  extended = jnp.concatenate([last[:, None], key], axis=1)
  real = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
  columns = jnp.where(real, jnp.arange(real.shape[1])[None], 0)
  newest = jax.lax.cummax(columns, axis=1)
  shifted = jnp.take_along_axis(extended, newest[:, :, None, None], axis=1)
  return shifted[:, :-1], shifted[:, -1]


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
    mask: jax.Array,
    cached: tuple[jax.Array, jax.Array, jax.Array, jax.Array] | None = None,
    before: jax.Array | None = None,
    columns: jax.Array | None = None,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """Attends from x [B, L, D].

    Args:
      x: [B, L, D].
      positions: [B, L].
      valid: [B, L] bool, which columns of x are real.
      mask: [B, L, S]; S = L without a cache.
      cached: (keys [B, K, S, C], values, last keys [B, M, C], column) to
        write into and read from.
      before: [B, L] the column of the token before each, -1 for none, where
        it is not the last real column before; without a cache.
      columns: [B, T] queries alone; T is then L in `mask` and in the output.

    Returns:
      Output [B, L, D] and (keys, values, last keys) as they now stand.
    """
    v = self.variant
    asking, asked_at = x, positions
    if columns is not None:
      asking = take_columns(x, columns)
      asked_at = take_columns(positions, columns)
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
      last = cached[2]
    if mixed:
      own = key[:, :, :mixed]
      if before is None:
        previous, last = previous_keys(own, valid, last)
      else:
        previous = take_columns(own, jnp.maximum(before, 0))
        previous *= (before >= 0)[:, :, None, None]
      key = jnp.concatenate([previous, key[:, :, mixed:]], axis=2)
    # A position is less than the number of columns.
    turn = (self._frequencies(), mask.shape[2])
    query = layers.rotary(query, layers.turns(asked_at, *turn))
    key = heads_first(layers.rotary(key, layers.turns(positions, *turn)))
    value = heads_first(value)
    if cached is not None:
      keys, values, _, column = cached
      start = (0, 0, column, 0)
      key = jax.lax.dynamic_update_slice(keys, key.astype(keys.dtype), start)
      value = jax.lax.dynamic_update_slice(
        values, value.astype(values.dtype), start
      )
    out = attend(query, key, value, mask, scale=v.query_scale)
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
