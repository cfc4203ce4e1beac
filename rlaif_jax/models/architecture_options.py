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
  code; arXiv:2407.21783). "yarn" does so by the number of rotations within
  original_length: it divides frequencies of at most low_frequency_factor
  rotations, keeps those of at least high_frequency_factor (32 in the paper),
  and blends linearly in the channel's number (arXiv:2309.00071, section 3.2).

  Attributes:
    kind: see above, like the factors.
    original_length: number of tokens of pretraining.
    attention_factor: factor of the rotated queries and keys, 0.1 ln(factor) + 1
      in YaRN.
  """

  kind: Literal["linear", "llama3", "yarn"]
  factor: Annotated[float, validation.Bounds(ge=1)]
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_length: validation.PositiveInt = 8192
  attention_factor: validation.PositiveFloat = 1.0

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
      (Gemma 3, Qwen3).
    qk_norm_of_all_heads: whether that norm is over the channels of all heads
      together (OLMo 2).
    pre_norms: whether a norm precedes attention and MLP (not in OLMo 2).
    post_norms: whether a norm follows attention and MLP (Gemma, OLMo 2).
    norm_offset: whether norms multiply by 1 + scale (Gemma).
    activation: of the gated MLP, "silu" or "gelu_tanh".
    embedding_scale: whether embeddings are multiplied by sqrt(width) (Gemma).
    query_scale: factor of the attention scores; 0 is head_dim ** -0.5.
    attention_softcap: scores become cap * tanh(scores / cap) before the softmax
      (Gemma 2); 0 is off.
    logit_softcap: logits become cap * tanh(logits / cap); 0 is off.
    window: number of tokens that local layers attend to, the query's own
      included; 0 is off.
    global_every: with a window, layer n is global if this divides n + 1; 0
      makes every layer local.
    global_first: with a window, number of first layers that are global (Qwen2's
      max_window_layers).
    local_rope_theta: rotary base of local layers, unscaled; 0 is the base and
      scaling of global layers.
    rope_scaling: of the global layers.
  """

  qkv_bias: bool = False
  qk_norm: bool = False
  qk_norm_of_all_heads: bool = False
  pre_norms: bool = True
  post_norms: bool = False
  norm_offset: bool = False
  activation: Literal["silu", "gelu_tanh"] = "silu"
  embedding_scale: bool = False
  query_scale: validation.NonNegativeFloat = 0.0
  attention_softcap: validation.NonNegativeFloat = 0.0
  logit_softcap: validation.NonNegativeFloat = 0.0
  window: validation.NonNegativeInt = 0
  global_every: validation.NonNegativeInt = 0
  global_first: validation.NonNegativeInt = 0
  local_rope_theta: validation.NonNegativeFloat = 0.0
  rope_scaling: RopeScaling | None = None

  def is_local(self, layer: int) -> bool:
    """Returns whether a layer, counted from 0, attends to a window only."""
    if not self.window or layer < self.global_first:
      return False
    return not self.global_every or (layer + 1) % self.global_every != 0

  @property
  def period(self) -> int:
    """Number of layers after which global and local layers repeat; 0: none."""
    if self.window and self.global_first:
      return 0
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
  if scaling.kind == "yarn":
    keep = _yarn_keep(head_dim, theta, scaling)
    return (1 - keep) * frequency / scaling.factor + keep * frequency
  # llama3: 0 for long waves, 1 for short ones, linear in between.
  waves = scaling.original_length * frequency / (2 * math.pi)
  low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
  keep = jnp.clip((waves - low) / (high - low), 0.0, 1.0)
  return (1 - keep) * frequency / scaling.factor + keep * frequency


def _yarn_keep(
  head_dim: int, theta: float, scaling: RopeScaling
) -> Float[Array, " half"]:
  """Returns YaRN's share of each unscaled frequency, 1 for short waves."""

  def channel(rotations: float) -> float:
    wave = scaling.original_length / (rotations * 2 * math.pi)
    return head_dim * math.log(wave) / (2 * math.log(theta))

  low = max(math.floor(channel(scaling.high_frequency_factor)), 0)
  high = min(math.ceil(channel(scaling.low_frequency_factor)), head_dim - 1)
  high = high if high != low else low + 0.001
  ramp = (jnp.arange(head_dim // 2, dtype=jnp.float32) - low) / (high - low)
  return 1 - jnp.clip(ramp, 0.0, 1.0)


def soft_cap(x: Float[Array, "*shape"], cap: float) -> Float[Array, "*shape"]:
  """Returns cap * tanh(x / cap), or x if cap is 0."""
  return cap * jnp.tanh(x / cap) if cap else x
