# SPDX-License-Identifier: Apache-2.0
"""Options in which decoder families differ from Llama 2.

A family is a combination of options. `interop` derives them from a public
checkpoint's configuration; no model code depends on a family's name.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core import validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling(validation.Validated):
  """Scaled rotary frequencies, for texts longer than those of pretraining.

  "linear" divides every frequency by `factor`. "llama3" divides those whose
  wavelength exceeds original_length / low_frequency_factor, keeps those below
  original_length / high_frequency_factor, and blends between (Llama 3.1 model
  code; arXiv:2407.21783).
  """

  kind: Literal["linear", "llama3"]
  factor: Annotated[float, validation.Bounds(ge=1)]
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_length: validation.PositiveInt = 8192

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.low_frequency_factor < self.high_frequency_factor:
      raise ValueError(
        f"RopeScaling: low_frequency_factor is {self.low_frequency_factor} "
        f"and high_frequency_factor is {self.high_frequency_factor}; they must "
        "be positive, the first less than the second"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArchitectureOptions(validation.Validated):
  """Departures from a Llama 2 block; the defaults are that block.

  Attributes:
    qkv_bias: whether query, key and value have biases (Qwen2).
    qk_norm: whether queries and keys have an RMS norm over their channels
      (Gemma 3).
    post_norms: whether a norm follows attention and MLP too (Gemma 2).
    norm_offset: whether norms multiply by 1 + scale (Gemma).
    activation: of the gated MLP, "silu" or "gelu_tanh".
    embedding_scale: whether embeddings are multiplied by sqrt(width) (Gemma).
    query_scale: factor of the attention scores; 0 is head_dim ** -0.5.
    logit_softcap: logits become cap * tanh(logits / cap); 0 is off.
    window: number of tokens that local layers attend to, the query's own
      included; 0 is off.
    global_every: with a window, layer n is global if this divides n + 1; 0
      makes every layer local.
    local_rope_theta: rotary base of local layers, unscaled; 0 is the base and
      scaling of global layers.
    rope_scaling: of the global layers.
  """

  qkv_bias: bool = False
  qk_norm: bool = False
  post_norms: bool = False
  norm_offset: bool = False
  activation: Literal["silu", "gelu_tanh"] = "silu"
  embedding_scale: bool = False
  query_scale: validation.NonNegativeFloat = 0.0
  logit_softcap: validation.NonNegativeFloat = 0.0
  window: validation.NonNegativeInt = 0
  global_every: validation.NonNegativeInt = 0
  local_rope_theta: validation.NonNegativeFloat = 0.0
  rope_scaling: RopeScaling | None = None

  def is_local(self, layer: int) -> bool:
    """Returns whether a layer, counted from 0, attends to a window only."""
    if not self.window:
      return False
    return not self.global_every or (layer + 1) % self.global_every != 0

  @property
  def period(self) -> int:
    """Number of layers after which global and local layers repeat."""
    return self.global_every if self.window and self.global_every else 1


def rope_frequencies(
  head_dim: int, theta: float, scaling: RopeScaling | None
) -> Float[Array, " half"]:
  """Returns float32 rotary frequencies of head_dim / 2, radians per token."""
  half = head_dim // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if scaling is None:
    return frequency
  if scaling.kind == "linear":
    return frequency / scaling.factor
  # llama3: 0 for long waves, 1 for short ones, linear in between.
  waves = scaling.original_length * frequency / (2 * math.pi)
  low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
  keep = jnp.clip((waves - low) / (high - low), 0.0, 1.0)
  return (1 - keep) * frequency / scaling.factor + keep * frequency


def soft_cap(x: Float[Array, "*shape"], cap: float) -> Float[Array, "*shape"]:
  """Returns cap * tanh(x / cap), or x if cap is 0."""
  return cap * jnp.tanh(x / cap) if cap else x
