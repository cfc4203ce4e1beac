# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention, masks, and the key/value cache as a plain value.

Positions and masks come from `valid`, never from a pad id, so padding may
stand anywhere in a row and changes nothing.
"""

from __future__ import annotations

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from rlaif_jax.models import layers

# A finite stand-in for minus infinity: a row with nothing to attend to gives
# a uniform average instead of NaN; such rows are padding and are never read.
MASKED = -1e30


@flax.struct.dataclass
class Cache:
  """Keys and values of the columns that a model has read.

  keys, values: one [B, S, K, C] array per layer; last_keys: one [B, M, C] per
  layer, the unrotated keys of the last real token in the M heads that use the
  previous token's key; valid: [B, S] bool; column: the next column to write,
  a scalar int32.
  """

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  last_keys: tuple[jax.Array, ...]
  valid: jax.Array
  column: jax.Array


def positions_from_valid(valid: jax.Array, start: jax.Array | int = 0):
  """[B, L] bool -> [B, L] int32 position of each real token in its row."""
  return jnp.maximum(start + jnp.cumsum(valid, axis=1) - 1, 0)


def causal_mask(valid: jax.Array) -> jax.Array:
  """[B, L] -> [B, L, L]: query i sees real key j when j <= i."""
  length = valid.shape[1]
  causal = jnp.tril(jnp.ones((length, length), bool))
  return causal[None] & valid[:, None, :]


def attend(
  query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
  """Softmax attention with H = G * K query heads; softmax in float32.

  Args:
    query: [B, L, H, C].
    key: [B, S, K, C].
    value: [B, S, K, C].
    mask: [B, L, S] bool.

  Returns:
    [B, L, H, C].
  """
  batch, length, heads, channels = query.shape
  kv_heads = key.shape[2]
  query = query.reshape(batch, length, kv_heads, heads // kv_heads, channels)
  scores = jnp.einsum(
    "blkgc,bskc->bkgls", query, key, preferred_element_type=jnp.float32
  ) / math.sqrt(channels)
  scores = jnp.where(mask[:, None, None], scores, MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  out = jnp.einsum("bkgls,bskc->blkgc", weights, value)
  return out.reshape(batch, length, heads, channels)


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

  The first `previous_key_heads` key heads use the key of the previous token
  instead of their own, which makes copying what followed an earlier token a
  one-layer affair (the smeared keys of arXiv:2209.11895, with the mixture
  fixed at the previous token). Public checkpoints have none (0).
  """

  num_heads: int
  num_kv_heads: int
  head_dim: int
  previous_key_heads: int
  rope_theta: float
  dtype: layers.Dtype

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    positions: jax.Array,
    valid: jax.Array,
    mask: jax.Array,
    cached: tuple[jax.Array, jax.Array, jax.Array, jax.Array] | None = None,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """Attends from x [B, L, D].

    Args:
      x: [B, L, D].
      positions: [B, L].
      valid: [B, L] bool, which columns of x are real.
      mask: [B, L, S]; S = L without a cache.
      cached: (keys [B, S, K, C], values, last keys [B, M, C], column) to
        write into and read from.

    Returns:
      Output [B, L, D] and (keys, values, last keys) as they now stand.
    """

    def project(heads: int, axis: str, name: str) -> jax.Array:
      features = (heads, self.head_dim)
      axes = ("embed", axis, "head_dim")
      return layers.Projection(features, axes, dtype=self.dtype, name=name)(x)

    query = project(self.num_heads, "heads", "query")
    key = project(self.num_kv_heads, "kv_heads", "key")
    value = project(self.num_kv_heads, "kv_heads", "value")
    mixed = self.previous_key_heads
    if cached is None:
      last = jnp.zeros((x.shape[0], mixed, self.head_dim), key.dtype)
    else:
      last = cached[2]
    if mixed:
      previous, last = previous_keys(key[:, :, :mixed], valid, last)
      key = jnp.concatenate([previous, key[:, :, mixed:]], axis=2)
    query = layers.rotary(query, positions, self.rope_theta)
    key = layers.rotary(key, positions, self.rope_theta)
    if cached is not None:
      keys, values, _, column = cached
      start = (0, column, 0, 0)
      key = jax.lax.dynamic_update_slice(keys, key.astype(keys.dtype), start)
      value = jax.lax.dynamic_update_slice(
        values, value.astype(values.dtype), start
      )
    out = attend(query, key, value, mask)
    out = layers.Projection(
      (x.shape[-1],),
      ("heads", "head_dim", "embed"),
      num_inputs=2,
      dtype=self.dtype,
      name="out",
    )(out)
    return out, (key, value, last)
