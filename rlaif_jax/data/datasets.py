# SPDX-License-Identifier: Apache-2.0
"""The rows that a run learns from, as arrays on the mesh, a batch at a time.

One process makes all of them into tokens at once. Of several processes each
reads, of every batch, the rows that its own devices hold, so that no host has
to read or to keep the others'.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.data import converters
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import processes

# records -> (arrays of as many rows, numbers to report)
Encode = Callable[[Sequence[Any]], tuple[Any, Mapping[str, int]]]

# Rows that are looked at together when nothing of them is kept.
_CHUNK = 1024


class HeldRows:
  """Rows that are arrays already."""

  def __init__(self, arrays: Any):
    self.arrays = arrays

  def batch(self, mesh: jax.sharding.Mesh, rows: np.ndarray) -> Any:
    """The rows of these numbers [B], on the mesh."""
    return mesh_lib.put_batch(mesh, converters.take(self.arrays, rows))


class TrainingRows:
  """Records and how they are encoded.

  `counts` has the encoder's numbers; `arrays` all rows, or None where several
  processes read.

  Every row is encoded once before the first step, so that what is wrong with
  one is said then; of several processes each looks at its share.

  Raises:
    ValueError: a row is bad (named).
  """

  def __init__(self, rows: Sequence[Any], encode: Encode):
    self._rows = rows
    self._encode = encode
    self._held = None
    if jax.process_count() == 1:
      arrays, counts = encode(rows)
      self._held = HeldRows(arrays)
      self.counts = dict(counts)
    else:
      self.counts = _counts_together(rows, encode)

  @property
  def arrays(self) -> Any:
    return self._held and self._held.arrays

  def __len__(self) -> int:
    return len(self._rows)

  def batch(self, mesh: jax.sharding.Mesh, rows: np.ndarray) -> Any:
    """The rows of these numbers [B], on the mesh."""
    if self._held is not None:
      return self._held.batch(mesh, rows)
    held = mesh_lib.held_rows(mesh, len(rows))
    part, _ = self._encode([self._rows[i] for i in rows[held]])
    if isinstance(part, batches.PromptBatch):  # Rows seed their samples.
      part = part.replace(row=rows[held].astype(np.int32))

    def spread(x):
      # The other rows are never looked at; see `mesh.put_batch`.
      whole = np.zeros((len(rows), *x.shape[1:]), x.dtype)
      whole[held] = x
      return whole

    return mesh_lib.put_batch(mesh, jax.tree.map(spread, part))

  def of_step(
    self,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    seed: int,
    name: str,
    step: int,
  ) -> Any:
    """The batch of a step; see `converters.epoch_rows`."""
    rows = converters.epoch_rows(
      num_rows=len(self),
      batch_size=batch_size,
      seed=seed,
      name=name,
      step=step,
    )
    return self.batch(mesh, rows)


def _counts_together(rows: Sequence[Any], encode: Encode) -> dict[str, int]:
  """The encoder's numbers over all rows, each looked at by one process."""
  total: dict[str, int] = {}
  count, index = jax.process_count(), jax.process_index()
  mine = range(index, len(rows), count)
  for begin in range(0, len(mine), _CHUNK):
    _, counts = encode([rows[i] for i in mine[begin : begin + _CHUNK]])
    for name, number in counts.items():
      total[name] = total.get(name, 0) + number
  return processes.sum_of_all(total)
