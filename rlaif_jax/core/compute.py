# SPDX-License-Identifier: Apache-2.0
"""How a job computes: the mesh, and what memory an update trades for time."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlaif_jax.core import validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig(validation.Validated):
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
  microbatches: validation.PositiveInt = 1
  remat: Literal["none", "full", "dots"] = "none"
  scan_layers: bool = False
