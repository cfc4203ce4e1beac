# SPDX-License-Identifier: Apache-2.0
"""How a job computes: devices, parameter shardings, and memory of an update."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlaif_jax.core import validation

# Mesh axes: batch, parameters of FSDP, columns of activations, tensor parallel.
AXES = ("data", "fsdp", "sequence", "model")

# Logical axis of a parameter -> mesh axis (None: not split).
RULES = (
  ("vocab", "model"),
  ("embed", "fsdp"),
  ("heads", "model"),
  ("kv_heads", "model"),
  ("head_dim", None),
  ("joined_kv", "model"),
  ("relpos_buckets", None),
  ("mlp", "model"),
  ("scalar", None),
)

# How attention is computed; see `ComputeConfig.attention`.
Attention = Literal["auto", "plain", "chunked", "splash", "cudnn"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement(validation.Validated):
  """Sharding and dtype of one model's parameters.

  Attributes:
    rules: (logical axis, mesh axis) pairs that replace those of RULES; ""
      replicates. (("embed", ""),) replicates what FSDP splits elsewhere.
    dtype: dtype of the parameters. "bfloat16" halves the memory of a model
      that is not trained. "int8" and "nf4" quantize its kernels, except those
      of logits and scalar heads, and keep the others in bfloat16; see
      `ops.quantization`.
  """

  rules: tuple[tuple[str, str], ...] = ()
  dtype: Literal["float32", "bfloat16", "int8", "nf4"] = "float32"

  def __post_init__(self):
    super().__post_init__()
    known = {name for name, _ in RULES}
    for name, axis in self.rules:
      if name not in known or axis not in ("", *AXES):
        raise ValueError(
          f"Placement.rules has ({name!r}, {axis!r}); the first should be one "
          f"of {sorted(known)} and the second one of {AXES} or '' for none"
        )

  @property
  def is_quantized(self) -> bool:
    """Whether kernels have 8 or 4 bits."""
    return self.dtype in ("int8", "nf4")

  @property
  def float_dtype(self) -> str:
    """Dtype of the parameters that are not quantized."""
    return "bfloat16" if self.is_quantized else self.dtype

  def table(self) -> dict[str, str | None]:
    """Returns logical axis -> mesh axis."""
    return {**dict(RULES), **{name: axis or None for name, axis in self.rules}}


PLAIN = Placement()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacementConfig(validation.Validated):
  """Placements of the models of a training job.

  `ScorerConfig.placement` is the placement of the reward.

  Attributes:
    policy: the model that is trained; float32 unless only adapters are.
    value: the value network; float32 unless only adapters are trained.
    reference: the frozen reference policy.
    rollout: a copy of the policy that generates, made for each rollout and
      each validation. With FSDP, rules=(("embed", ""),) gathers the parameters
      once per rollout instead of once per token. None generates from the
      policy itself.
  """

  policy: Placement = PLAIN
  value: Placement = PLAIN
  reference: Placement = PLAIN
  rollout: Placement | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig(validation.Validated):
  """Devices and memory of a training job.

  Attributes:
    mesh: sizes of the mesh axes, such as "data:-1,model:4"; see
      `engine.mesh.make_mesh`.
    microbatches: number of gradient-accumulation steps per update.
    remat: activations that the backward pass keeps for each layer: "none"
      keeps all, "dots" keeps matrix products, "attention" keeps the layer's
      input and the outputs of a splash kernel, "full" keeps the layer's input;
      the rest is recomputed.
    scan_layers: compiles the layers of an update as one loop. Compilation time
      no longer grows with depth; the gradients are the same.
    attention: "plain" makes the scores of all queries and keys at once,
      "chunked" those of some queries at a time, which its backward pass makes
      again. "splash" (TPU; interpreted elsewhere) and "cudnn" (GPU) are
      kernels that keep no scores; rows that a kernel does not support are
      chunked. "auto" takes the kernel of the devices for long rows, and plain
      attention for short ones.
    placement: shardings and dtypes of the models.
  """

  mesh: str = "data:-1"
  microbatches: validation.PositiveInt = 1
  remat: Literal["none", "dots", "attention", "full"] = "none"
  scan_layers: bool = False
  attention: Attention = "auto"
  placement: PlacementConfig = PlacementConfig()
