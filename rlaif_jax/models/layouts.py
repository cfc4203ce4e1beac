# SPDX-License-Identifier: Apache-2.0
"""Positions of columns, which columns attend to which, and by which kernel.

They come from `valid`, not from a pad id, so padding may be anywhere in a row
and does not change the result.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from rlaif_jax.core import compute as compute_lib

# Scores per row and head that chunked attention makes at a time.
BLOCK_SCORES = 1 << 20


def positions_from_valid(
  valid: Bool[Array, "B L"], start: Int[Array, "B 1"] | int = 0
) -> Int[Array, "B L"]:
  """Returns positions that count the valid tokens of each row from `start`."""
  return jnp.maximum(start + jnp.cumsum(valid, axis=1) - 1, 0)


def last_real(
  values: Shaped[Array, "B L *rest"], valid: Bool[Array, "B L"]
) -> Shaped[Array, " B *rest"]:
  """Returns the values at the last valid column of each row.

  The column comes from `valid`, so a token id that is both pad and end token is
  read correctly. Rows without a valid token read column 0.
  """
  columns = jnp.where(valid, jnp.arange(valid.shape[1])[None], 0)
  last = jnp.max(columns, axis=1)
  last = last.reshape(last.shape + (1,) * (values.ndim - 1))
  return jnp.take_along_axis(values, last, axis=1)[:, 0]


def take_columns(
  x: Shaped[Array, "B L *rest"], columns: Int[Array, "B T"]
) -> Shaped[Array, "B T *rest"]:
  """Returns columns of each row."""
  columns = columns.reshape(columns.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, columns, axis=1)


@flax.struct.dataclass
class Columns:
  """Columns of rows, as far as they decide which key a query attends to.

  Attributes:
    positions: positions of the tokens.
    order: a query attends to keys whose order is at most its own.
    segment_ids: a query attends to keys of its own segment; 0 for padding.
    continuation_ids: a query attends to keys of its own continuation and to
      those of continuation 0, the prompt.
  """

  positions: Int[Array, "#B N"]
  order: Int[Array, "#B N"]
  segment_ids: Int[Array, "#B N"]
  continuation_ids: Int[Array, "#B N"]

  def queries(self) -> Columns:
    """Returns the columns as queries of rows that are one segment."""
    return self.replace(segment_ids=jnp.ones_like(self.segment_ids))

  def mask(self, keys: Columns, window: int = 0) -> Bool[Array, "B N S"]:
    """Returns whether these queries attend to keys.

    Args:
      keys: columns of the keys.
      window: keys may be at most window - 1 tokens back; 0 is off. Positions
        count tokens, so that padding inside a row does not use up the window.
    """

    def pairs(name):
      return getattr(self, name)[:, :, None], getattr(keys, name)[:, None, :]

    query, key = pairs("segment_ids")
    mask = (query == key) & (key > 0)
    query, key = pairs("continuation_ids")
    mask &= (key == 0) | (query == key)
    query, key = pairs("order")
    mask &= key <= query
    query, key = pairs("positions")
    return mask & (query - key < window) if window else mask


def columns_of(valid: Bool[Array, "B L"]) -> Columns:
  """Returns the columns of rows of one text each, in order."""
  order = jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape)
  positions = positions_from_valid(valid)
  return Columns(positions, order, valid.astype(jnp.int32), order * 0)


class Kernel(NamedTuple):
  """How attention is computed.

  Attributes:
    name: one of `compute.Attention`, but not "auto".
    sharding: of activations [rows, columns, ...]; None on one device.
    interpret: whether a TPU kernel runs on other devices.
  """

  name: str = "plain"
  sharding: jax.sharding.NamedSharding | None = None
  interpret: bool = False


PLAIN = Kernel()

# "auto" makes all scores at once up to these lengths of queries and keys.
PLAIN_LENGTH = {"cpu": 1024, "gpu": 256, "tpu": 256}


def choose(
  name: compute_lib.Attention,
  sharding: jax.sharding.NamedSharding | None,
  queries: int,
  keys: int,
) -> Kernel:
  """Returns the kernel for rows of a length; see `compute.Attention`."""
  devices = None if sharding is None else sharding.mesh.devices.flat[0]
  platform = jax.default_backend() if devices is None else devices.platform
  if queries == 1:
    return PLAIN
  if name == "auto":
    short = PLAIN_LENGTH.get(platform, 1024)
    fused = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "chunked")
    name = "plain" if queries * keys <= short**2 else fused
  return Kernel(name, sharding, interpret=platform != "tpu")


@flax.struct.dataclass
class Layout:
  """Positions of queries and keys, and which keys each query attends to.

  Attributes:
    queries: columns of the queries.
    keys: columns of the keys.
    mask: whether a query attends to a key; None where attention makes it for
      some queries at a time.
    window: number of tokens that a query attends to, its own included; 0: all.
    continuations: (number, length) of the continuations at the end of each
      row, none of which attends to another; the columns before them attend
      backwards only.
    is_text: whether each row is one text, whose queries are all columns.
    is_whole: whether the queries are all columns of the rows. Otherwise they
      are equally many of each continuation, if there are any.
    kernel: how attention is computed.
  """

  queries: Columns
  keys: Columns
  mask: Bool[Array, "#B #L S"] | None
  window: int = flax.struct.field(pytree_node=False, default=0)
  continuations: tuple[int, int] = flax.struct.field(
    pytree_node=False, default=(0, 0)
  )
  is_text: bool = flax.struct.field(pytree_node=False, default=False)
  is_whole: bool = flax.struct.field(pytree_node=False, default=True)
  kernel: Kernel = flax.struct.field(pytree_node=False, default=PLAIN)

  @property
  def positions(self) -> Int[Array, "B L"]:
    return self.queries.positions

  @property
  def key_positions(self) -> Int[Array, "#B S"]:
    return self.keys.positions

  def whole_mask(self) -> Bool[Array, "B L S"]:
    """Returns the mask of all queries and keys."""
    if self.mask is not None:
      return self.mask
    return self.queries.mask(self.keys, self.window)

  def within(self, window: int) -> Layout:
    """Returns the layout of a layer that attends to `window` tokens."""
    is_plain = self.kernel.name == "plain"
    mask = self.queries.mask(self.keys, window) if is_plain else None
    return self.replace(window=window, mask=mask)

  def at(self, columns: Int[Array, "B T"]) -> Layout:
    """Returns the layout of queries at these columns only."""
    mask = self.mask
    return self.replace(
      queries=jax.tree.map(lambda x: take_columns(x, columns), self.queries),
      # A mask may be the same for all queries.
      mask=mask
      if mask is None or mask.shape[1] == 1
      else take_columns(mask, columns),
      is_whole=False,
    )

  def part(self, queries: slice, keys: slice) -> Layout:
    """Returns the layout of some queries and some keys."""
    return self.replace(
      queries=jax.tree.map(lambda x: x[:, queries], self.queries),
      keys=jax.tree.map(lambda x: x[:, keys], self.keys),
      mask=None if self.mask is None else self.mask[:, queries, keys],
      is_text=False,
    )


def layout_of(queries: Columns, keys: Columns, kernel: Kernel) -> Layout:
  """Returns a layout, with its mask for plain attention."""
  mask = queries.mask(keys) if kernel.name == "plain" else None
  return Layout(queries, keys, mask, kernel=kernel)


def causal_layout(valid: Bool[Array, "B L"], kernel: Kernel = PLAIN) -> Layout:
  """Returns the layout of rows of one text each.

  Query i attends to valid key j if j <= i.
  """
  keys = columns_of(valid)
  return layout_of(keys.queries(), keys, kernel).replace(is_text=True)


def packed_layout(
  segment_ids: Int[Array, "B L"],
  continuation_ids: Int[Array, "B L"],
  kernel: Kernel = PLAIN,
) -> Layout:
  """Returns the layout of packed rows; see `batches.PackedBatch`.

  Query i attends to valid key j if j <= i, both have the same segment, and j is
  in its prompt or in the same continuation.

  Args:
    segment_ids: 0 for padding.
    continuation_ids: 0 for the prompt of a segment.
    kernel: how attention is computed.
  """
  order = jnp.arange(segment_ids.shape[1])
  order = jnp.broadcast_to(order, segment_ids.shape)
  columns = Columns(order * 0, order, segment_ids, continuation_ids)
  layout = layout_of(columns, columns, kernel)

  def count(queries):
    return jnp.sum(queries.mask(columns), axis=2)

  if layout.mask is not None:
    seen = jnp.sum(layout.mask, axis=2)
  else:
    seen = in_blocks(count, columns, order.shape[1])
  columns = columns.replace(positions=jnp.maximum(seen - 1, 0))
  return layout.replace(queries=columns, keys=columns)


def cached_layout(
  positions: Int[Array, "B L"],
  key_positions: Int[Array, "#B S"],
  kernel: Kernel = PLAIN,
) -> Layout:
  """Returns the layout of queries that read a cache.

  By position, since the columns of a cache are in any order.

  Args:
    positions: positions of the queries.
    key_positions: positions of the cache's columns, -1 if unused.
    kernel: how attention is computed.
  """
  used = (key_positions >= 0).astype(jnp.int32)
  keys = Columns(key_positions, key_positions, used, used * 0)
  zero = positions * 0
  return layout_of(Columns(positions, positions, zero + 1, zero), keys, kernel)


def prefix_layout(layout: Layout, key_positions: Int[Array, "1 C"]) -> Layout:
  """Returns the layout of queries that read the prefix of all rows.

  Args:
    layout: of the queries and their own rows.
    key_positions: positions of the prefix's columns, -1 if unused.
  """
  seen = cached_layout(layout.positions, key_positions, layout.kernel)
  return seen.replace(mask=(key_positions >= 0)[:, None])


def in_blocks(
  apply: Callable[[PyTree], Shaped[Array, "B q *rest"]],
  tree: PyTree[Shaped[Array, "#B L *rest"]],
  num_keys: int,
) -> Shaped[Array, "B L *rest"]:
  """Applies a function to some queries at a time, and joins the results.

  The backward pass applies it again, so that what it makes of queries and keys
  is never kept.

  Args:
    apply: function of blocks of the arrays.
    tree: arrays with an axis of queries.
    num_keys: number of keys that a query is compared with.
  """
  length = jax.tree.leaves(tree)[0].shape[1]
  block = min(length, max(8, BLOCK_SCORES // num_keys))
  number = -(-length // block)

  if number == 1:
    return jax.checkpoint(apply)(tree)

  def split(x):
    pad = [(0, 0)] * x.ndim
    pad[1] = (0, number * block - length)
    x = jnp.pad(x, pad).reshape(x.shape[0], number, block, *x.shape[2:])
    return jnp.swapaxes(x, 0, 1)

  out = jax.lax.map(jax.checkpoint(apply), jax.tree.map(split, tree))
  out = jnp.swapaxes(out, 0, 1)
  return out.reshape(out.shape[0], -1, *out.shape[3:])[:, :length]
