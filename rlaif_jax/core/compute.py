# SPDX-License-Identifier: Apache-2.0
"""How a job computes: the mesh, and what memory an update trades for time."""

from __future__ import annotations

import dataclasses

REMAT = ("none", "full", "dots")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
  """Devices and memory of a training job.

  Attributes:
    mesh: sizes of the mesh axes, such as "data:-1,model:4"; see
      `engine.mesh.make_mesh`.
    microbatches: number of gradient-accumulation steps per update.
    remat: activations that the backward pass keeps for each layer: "none"
      keeps all, "dots" keeps matrix products, "full" keeps the layer's input
      and recomputes the rest.
    scan_layers: compiles the layers of an update as one loop. Compilation time
      no longer grows with depth; the gradients are the same.
  """

  mesh: str = "data:-1"
  microbatches: int = 1
  remat: str = "none"
  scan_layers: bool = False

  def __post_init__(self):
    if self.microbatches < 1:
      raise ValueError(
        f"ComputeConfig.microbatches is {self.microbatches}; it must be >= 1"
      )
    if self.remat not in REMAT:
      raise ValueError(
        f"ComputeConfig.remat is {self.remat!r}; use one of {REMAT}"
      )
