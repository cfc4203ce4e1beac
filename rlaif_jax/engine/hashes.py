# SPDX-License-Identifier: Apache-2.0
"""SHA-256 hashes of parameters and of training states.

Parameters have one hash, the same for every mesh, sharding and number of
processes, by which a finished model is verified and named. A training state has
a hash of each shard, which needs no communication.
"""

from __future__ import annotations

from concurrent import futures
import functools
import hashlib
import re
from typing import Callable, Iterator, Mapping, NamedTuple, Sequence, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
import numpy as np

from rlaif_jax.core import records
from rlaif_jax.engine import processes

T = TypeVar("T")
S = TypeVar("S")

_PIECE = 64 << 20  # bytes that are copied to the host at a time
_THREADS = 2  # hashlib releases the GIL
_DIGITS = 32


class Scan(NamedTuple):
  """Hashes of parameters, and what is wrong with them.

  Attributes:
    hashes: dtype -> hash of the values in this dtype.
    non_finite: name -> number of values that are NaN or infinite, without the
      names that have none.
  """

  hashes: dict[str, str]
  non_finite: dict[str, int]


def scan(params: PyTree, dtypes: Sequence[str]) -> Scan:
  """Hashes parameters and counts their non-finite values.

  Every process calls it. Leaf i is hashed by process i modulo their number; the
  others take part in gathering it.

  Args:
    params: parameters.
    dtypes: dtypes to which the values are converted before they are hashed.
  """
  leaves = _named(params)
  index, count = jax.process_index(), jax.process_count()

  def scan_leaf(i: int) -> tuple[list[str], int] | None:
    if i % count == index:
      return _scan_leaf(leaves[i][1], dtypes)
    for _ in _pieces(leaves[i][1]):
      pass  # The process that hashes this leaf gathers it.
    return None

  # Process i % count has the result of leaf i.
  everywhere = processes.all_values(_map(scan_leaf, range(len(leaves))))
  totals = [hashlib.sha256() for _ in dtypes]
  non_finite = {}
  for i, (name, leaf) in enumerate(leaves):
    digests, bad = everywhere[i % count][i]
    for total, digest in zip(totals, digests, strict=True):
      total.update(f"{name} {leaf.shape} {digest}\n".encode())
    if bad:
      non_finite[name] = bad
  found = [total.hexdigest()[:_DIGITS] for total in totals]
  return Scan(dict(zip(dtypes, found, strict=True)), non_finite)


def _scan_leaf(leaf: jax.Array, dtypes: Sequence[str]) -> tuple[list[str], int]:
  """Returns the hash in each dtype, and the number of non-finite values."""
  digests = [hashlib.sha256() for _ in dtypes]
  bad = 0
  for piece in _pieces(leaf):
    values = piece.astype(np.float32, copy=False)
    bad += values.size - int(np.count_nonzero(np.isfinite(values)))
    for dtype, digest in zip(dtypes, digests, strict=True):
      digest.update(_bytes(values.astype(jnp.dtype(dtype), copy=False)))
  return [digest.hexdigest() for digest in digests], bad


def shard_hashes(tree: PyTree) -> dict[str, records.Row]:
  """Returns the hashes of a state's shards by the name of the leaf.

  A row has the leaf's "shape", "dtype" and "shards": box -> hash, where a box
  such as "0:4,8:16" has the rows and columns of a shard. Every process calls
  it, hashes the shards that it holds, and gets those of all.
  """
  leaves = _named(tree)
  shards = [
    (name, _box(shard.index, leaf.shape), shard.data)
    for name, leaf in leaves
    for shard in leaf.addressable_shards
    if shard.replica_id == 0
  ]
  own = _map(lambda shard: (*shard[:2], _digest(shard[2])), shards)
  found: dict[str, records.Row] = {
    name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "shards": {}}
    for name, leaf in leaves
  }
  for part in processes.all_values(own):
    for name, box, digest in part:
      found[name]["shards"][box] = digest
  return found


def changed_leaves(
  tree: PyTree, expected: Mapping[str, records.Row]
) -> list[str]:
  """Returns the names of leaves whose values differ from their hashes.

  Every process calls it. The tree may have another sharding than the state
  whose hashes are expected; such a leaf is gathered.

  Args:
    tree: the state.
    expected: `shard_hashes` of the expected state; the same names and shapes.
  """
  found = shard_hashes(tree)
  changed = []
  for name, leaf in _named(tree):
    mine, theirs = found[name]["shards"], expected[name]["shards"]
    if set(mine) != set(theirs):
      whole = processes.to_host(leaf)
      mine = {box: _digest(whole[_index(box)]) for box in theirs}
    if mine != theirs:
      changed.append(name)
  return changed


def shapes(tree: PyTree) -> dict[str, tuple[tuple[int, ...], str]]:
  """Returns (shape, dtype) of each leaf by its name."""
  return {
    name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in _named(tree)
  }


def _named(tree: PyTree) -> list[tuple[str, jax.Array]]:
  """Returns the leaves with names such as "layers/0/kernel"."""
  return [
    (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def _map(function: Callable[[S], T], items: Sequence[S]) -> list[T]:
  """Returns function(item) of each, by threads if this process is alone.

  Several processes gather leaves in the same order.
  """
  if jax.process_count() > 1:
    return [function(item) for item in items]
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(function, items))


def _pieces(leaf: jax.Array) -> Iterator[np.ndarray]:
  """Yields an array as host arrays of few rows, first row first.

  An array that is whole in this host's memory is not copied. No piece is kept:
  `np.asarray` of a device array would cache a copy for the array's lifetime.
  """
  leaf = leaf if leaf.ndim else leaf.reshape(1)
  rows = leaf.shape[0]
  step = max(1, _PIECE // max(1, leaf.nbytes // max(1, rows)))
  if isinstance(leaf, np.ndarray) or (
    leaf.is_fully_replicated and next(iter(leaf.devices())).platform == "cpu"
  ):
    whole = leaf if isinstance(leaf, np.ndarray) else leaf.addressable_data(0)
    whole = np.asarray(whole)
    for begin in range(0, rows, step):
      yield whole[begin : begin + step]
    return
  sharding = leaf.sharding
  if not leaf.is_fully_replicated:
    everywhere = jax.sharding.PartitionSpec()
    sharding = jax.sharding.NamedSharding(sharding.mesh, everywhere)
  read = _make_read(sharding)
  for begin in range(0, rows, step):
    piece = read(leaf, begin, rows=min(step, rows - begin))
    yield np.asarray(piece.addressable_data(0))


@functools.cache
def _make_read(
  sharding: jax.sharding.Sharding,
) -> Callable[..., jax.Array]:
  """Returns the jitted read(array, begin, rows=n) of some rows."""

  def read(array: jax.Array, begin: int, *, rows: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, begin, rows)

  return jax.jit(read, static_argnames="rows", out_shardings=sharding)


def _bytes(array: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _digest(array: jax.Array | np.ndarray) -> str:
  return hashlib.sha256(_bytes(np.asarray(array))).hexdigest()[:_DIGITS]


def _box(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
  """Returns the text of a shard's index, such as "0:4,8:16"."""
  ranges = (s.indices(size) for s, size in zip(index, shape, strict=True))
  return ",".join(f"{begin}:{end}" for begin, end, _ in ranges)


def _index(box: str) -> tuple[slice, ...]:
  """Returns the index of a box's text."""
  return tuple(
    slice(int(begin), int(end))
    for begin, end in re.findall(r"(\d+):(\d+)", box)
  )
