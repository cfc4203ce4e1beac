# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention and masks, as functions of arrays.

Positions and masks come from `valid`, never from a pad id, so padding may
stand anywhere in a row and changes nothing.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

# A finite stand-in for minus infinity: a row with nothing to attend to gives
# a uniform average instead of NaN; such rows are padding and are never read.
MASKED = -1e30


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


@flax.struct.dataclass
class Blocks:
  """A mask [B, T, L] and where, whatever it says, nobody sees anybody.

  branches: (number, length) of those at the end of the rows, none of which
    sees another; before them all see backwards only.
  is_whole: the queries are all columns (T = L), else equally many of each
    branch, or of anything where there are no branches.
  """

  mask: jax.Array
  branches: tuple[int, int] = flax.struct.field(pytree_node=False)
  is_whole: bool = flax.struct.field(pytree_node=False, default=True)


def asked_by(blocks: Blocks, columns: jax.Array) -> Blocks:
  """Of queries at some columns [B, T] alone."""
  mask = take_columns(blocks.mask, columns)
  return Blocks(mask, blocks.branches, is_whole=False)


# Queries before the branches that are asked together: fewer spare more of the
# masked half, more make larger products. There are four parts at most.
CHUNK = 128


def attend_blocks(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  blocks: Blocks,
  *,
  scale: float = 0.0,
) -> jax.Array:
  """`attend`, without most of the scores that are masked anyway."""
  mask, (group, length) = blocks.mask, blocks.branches
  if not group and not blocks.is_whole:
    return attend(query, key, value, mask, scale=scale)
  cut = key.shape[2] - group * length
  asking = cut if blocks.is_whole else 0
  step = -(-asking // min(4, max(1, asking // CHUNK)))
  out = []
  for begin in range(0, asking, max(step, 1)):
    end = min(begin + step, asking)
    seen = (key[:, :, :end], value[:, :, :end], mask[:, begin:end, :end])
    out.append(attend(query[:, begin:end], *seen, scale=scale))
  if group:
    rows = (key.shape[0] * group, -1)
    answer = attend(
      query[:, asking:].reshape(*rows, *query.shape[2:]),
      _of_branches(key, cut, group),
      _of_branches(value, cut, group),
      _mask_of_branches(mask[:, asking:], cut, group),
      scale=scale,
    )
    out.append(answer.reshape(key.shape[0], -1, *query.shape[2:]))
  return jnp.concatenate(out, axis=1)


def _of_branches(x: jax.Array, cut: int, group: int) -> jax.Array:
  """[B, K, cut + G R, C] -> [B G, K, cut + R, C]: the beginning, its own."""
  rows, heads, _, channels = x.shape
  shape = (rows, group, heads, cut, channels)
  first = jnp.broadcast_to(x[:, None, :, :cut], shape)
  own = x[:, :, cut:].reshape(rows, heads, group, -1, channels)
  both = jnp.concatenate([first, jnp.swapaxes(own, 1, 2)], axis=3)
  return both.reshape(rows * group, heads, -1, channels)


def _mask_of_branches(mask: jax.Array, cut: int, group: int) -> jax.Array:
  """[B, G Q, cut + G R] -> [B G, Q, cut + R]: each branch's own part."""
  rows, columns = mask.shape[0], mask.shape[2]
  mask = mask.reshape(rows, group, -1, columns)
  own = mask[..., cut:].reshape(*mask.shape[:3], group, -1)
  own = jnp.stack([own[:, i, :, i] for i in range(group)], axis=1)
  both = jnp.concatenate([mask[..., :cut], own], axis=3)
  return both.reshape(rows * group, *both.shape[2:])


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
