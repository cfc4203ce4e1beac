# SPDX-License-Identifier: Apache-2.0
"""Batches of labelled pairs, packed where that saves columns."""

from __future__ import annotations

import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.data import converters
from rlaif_jax.data import packing
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.data import datasets


class PairBatches:
  """Serves batches of pairs on the mesh.

  Packed rows have the same tokens as padded ones, so the loss is the same. The
  number of packed rows takes few values, each of which is compiled once. With
  several processes, none of which has all pairs, batches are padded.

  Args:
    rows: rows of a PairBatch.
    devices: mesh.
    batch_size: pairs per batch.
    microbatches: number of packed rows is a multiple of it.
    can_pack: whether the model reads packed rows.
  """

  def __init__(
    self,
    rows: datasets.TrainingRows | datasets.HeldRows,
    devices: jax.sharding.Mesh,
    *,
    batch_size: int,
    microbatches: int,
    can_pack: bool,
  ):
    self._rows = rows
    self._batch_size = batch_size
    self._devices = devices
    self.shape = None
    pairs = rows.arrays
    if can_pack and pairs is not None and packing.is_worth_it(pairs):
      lengths = packing.lengths_of(pairs)
      self.shape = packing.row_shape(lengths)
      parts = devices.shape["data"] * devices.shape["fsdp"] * microbatches
      height = batch_size * np.mean(lengths.both) / self.shape.columns
      self._multiple = parts * max(1, round(height / (8 * parts)))

  def at_step(
    self, step: int, rows: range, *, seed: int, name: str
  ) -> batches.PairBatch:
    """Returns the batch of a step; epochs run over `rows`."""
    index = converters.epoch_rows(
      num_rows=len(rows),
      batch_size=self._batch_size,
      seed=seed,
      name=name,
      step=step,
    )
    return self.batch(index + rows.start)

  def batch(self, rows: np.ndarray) -> batches.PairBatch:
    """Returns the pairs with these row indices."""
    if self.shape is None:
      return self._rows.batch(self._devices, rows)
    packed = packing.pack_pairs(
      converters.take(self._rows.arrays, rows),
      self.shape,
      multiple=self._multiple,
    )
    return mesh_lib.put_batch(self._devices, packed)
