# SPDX-License-Identifier: Apache-2.0
"""Batches of labelled pairs, packed where that saves the model columns."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.data import converters
from rlaif_jax.data import packing
from rlaif_jax.engine import mesh as mesh_lib


class PairBatches:
  """batch(rows) -> (pairs on the devices, further numbers likewise).

  Packed rows hold what padded ones hold, so a loss is the same. They come in
  few numbers, each of which is compiled once.

  Args:
    pairs: all of them, host arrays.
    devices: mesh.
    batch_size: pairs of a batch.
    microbatches: into which its rows divide.
    can_pack: whether the model reads packed rows.
    **more: further numbers, one a pair.
  """

  def __init__(
    self,
    pairs: batches.PairBatch,
    devices: jax.sharding.Mesh,
    *,
    batch_size: int,
    microbatches: int,
    can_pack: bool,
    **more: np.ndarray,
  ):
    self._pairs = pairs
    self._more = more
    self._devices = devices
    self.shape = None
    if can_pack and packing.is_worth_it(pairs):
      lengths = packing.lengths_of(pairs)
      self.shape = packing.row_shape(lengths)
      parts = devices.shape["data"] * devices.shape["fsdp"] * microbatches
      rows = batch_size * np.mean(lengths.both) / self.shape.columns
      self._multiple = parts * max(1, round(rows / (8 * parts)))

  def batch(self, rows: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """The pairs of these row numbers."""
    pairs = converters.take(self._pairs, rows)
    more = converters.take(self._more, rows)
    if self.shape is not None:
      pairs, more = packing.pack_pairs(
        pairs, self.shape, multiple=self._multiple, **more
      )
    return mesh_lib.put_batch(self._devices, (pairs, more))
