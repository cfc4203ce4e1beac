# SPDX-License-Identifier: Apache-2.0
"""Batches of labelled pairs, packed where that saves the model columns."""

from __future__ import annotations

import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.data import converters
from rlaif_jax.data import packing
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.data import datasets


class PairBatches:
  """batch(rows) -> pairs on the devices.

  Packed rows hold what padded ones hold, so a loss is the same. They come in
  few numbers, each of which is compiled once. Several processes, of which none
  has all pairs, pad.

  Args:
    rows: of a PairBatch.
    devices: mesh.
    batch_size: pairs of a batch.
    microbatches: into which its rows divide.
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
    """The batch of a step of epochs over some rows."""
    index = converters.epoch_rows(
      num_rows=len(rows),
      batch_size=self._batch_size,
      seed=seed,
      name=name,
      step=step,
    )
    return self.batch(index + rows.start)

  def batch(self, rows: np.ndarray) -> batches.PairBatch:
    """The pairs of these row numbers."""
    if self.shape is None:
      return self._rows.batch(self._devices, rows)
    packed = packing.pack_pairs(
      converters.take(self._rows.arrays, rows),
      self.shape,
      multiple=self._multiple,
    )
    return mesh_lib.put_batch(self._devices, packed)
