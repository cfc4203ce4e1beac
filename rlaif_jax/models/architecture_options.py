# SPDX-License-Identifier: Apache-2.0
"""What decoder families do differently, as plain fields over Llama's defaults.

A family is a combination of these, never a branch on its name; `interop`
derives them from a public checkpoint's own configuration.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp

ACTIVATIONS = ("silu", "gelu_tanh")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
  """Stretched rotary frequencies, for texts longer than those of pretraining.

  "linear" divides every frequency by `factor`. "llama3" divides those whose
  wavelength exceeds original_length / low_frequency_factor, keeps those below
  original_length / high_frequency_factor, and blends between (Llama 3.1 model
  code; arXiv:2407.21783).
  """

  kind: str
  factor: float
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_length: int = 8192

  def __post_init__(self):
    if self.kind not in ("linear", "llama3"):
      raise ValueError(
        f"RopeScaling.kind is {self.kind!r}; use 'linear' or 'llama3'"
      )
    if self.factor < 1 or self.original_length < 1:
      raise ValueError(
        f"RopeScaling: factor is {self.factor} and original_length "
        f"{self.original_length}; both must be >= 1"
      )
    if not 0 < self.low_frequency_factor < self.high_frequency_factor:
      raise ValueError(
        f"RopeScaling: low_frequency_factor is {self.low_frequency_factor} "
        f"and high_frequency_factor {self.high_frequency_factor}; they must "
        "be positive and rising"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """Departures from a Llama 2 block; the defaults are that block.

  Fields:
    qkv_bias: biases on query, key and value (Qwen2).
    qk_norm: RMS norm over the channels of queries and keys (Gemma 3).
    post_norms: a norm after attention and MLP too (Gemma's sandwich).
    norm_offset: norms multiply by 1 + scale (Gemma).
    activation: of the gated MLP, "silu" or "gelu_tanh".
    embedding_scale: embeddings are multiplied by sqrt(width) (Gemma).
    query_scale: scores are multiplied by it; 0 is head_dim ** -0.5.
    logit_softcap: logits become cap * tanh(logits / cap); 0 is off.
    window: local layers see this many tokens, themselves included; 0 is off.
    global_every: with a window, layer n sees everything when this divides
      n + 1; 0 makes every layer local.
    local_rope_theta: rotary base of local layers, unscaled; 0 uses the
      global layers' base and scaling.
    rope_scaling: of the global layers.
    previous_key_heads: see `self_attention.Attention`; 0 in public models.
  """

  qkv_bias: bool = False
  qk_norm: bool = False
  post_norms: bool = False
  norm_offset: bool = False
  activation: str = "silu"
  embedding_scale: bool = False
  query_scale: float = 0.0
  logit_softcap: float = 0.0
  window: int = 0
  global_every: int = 0
  local_rope_theta: float = 0.0
  rope_scaling: RopeScaling | None = None
  previous_key_heads: int = 0

  def __post_init__(self):
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f"Variant.activation is {self.activation!r}; use one of {ACTIVATIONS}"
      )
    for field in (
      "query_scale",
      "logit_softcap",
      "window",
      "global_every",
      "local_rope_theta",
      "previous_key_heads",
    ):
      if getattr(self, field) < 0:
        raise ValueError(
          f"Variant.{field} is {getattr(self, field)}; it must be >= 0"
        )

  def is_local(self, layer: int) -> bool:
    """Whether a layer (counted from 0) sees only a window."""
    if not self.window:
      return False
    return not self.global_every or (layer + 1) % self.global_every != 0

  @property
  def period(self) -> int:
    """After how many layers the kinds of layers come again."""
    return self.global_every if self.window and self.global_every else 1


def rope_frequencies(
  head_dim: int, theta: float, scaling: RopeScaling | None
) -> jnp.ndarray:
  """Rotary frequencies [head_dim / 2], float32 radians a token."""
  half = head_dim // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if scaling is None:
    return frequency
  if scaling.kind == "linear":
    return frequency / scaling.factor
  # llama3: 0 for long waves, 1 for short ones, a line between.
  waves = scaling.original_length * frequency / (2 * math.pi)
  low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
  keep = jnp.clip((waves - low) / (high - low), 0.0, 1.0)
  return (1 - keep) * frequency / scaling.factor + keep * frequency


def soft_cap(x: jnp.ndarray, cap: float) -> jnp.ndarray:
  """cap * tanh(x / cap); x itself when cap is 0."""
  return cap * jnp.tanh(x / cap) if cap else x
