# SPDX-License-Identifier: Apache-2.0
"""The sizes of a decoder."""

from __future__ import annotations

import dataclasses

from rlaif_jax.core import validation
from rlaif_jax.models import architecture_options as options_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(validation.Validated):
  """Sizes of a decoder.

  Attributes:
    vocab_size: number of tokens of the vocabulary.
    width: channels of the hidden states.
    num_layers: number of layers.
    num_heads: number of query heads.
    num_kv_heads: number of key and value heads; it divides num_heads.
    head_dim: channels of a head, an even number.
    mlp_dim: channels inside the MLP.
    max_length: maximum number of tokens of a prompt with its response.
    rope_theta: base of the rotary frequencies.
    norm_epsilon: of the RMS norms.
    tie_embeddings: whether the token table also gives the logits.
    architecture_options: departures from Llama 2.
    dtype: of the computation, "float32" or "bfloat16".
  """

  vocab_size: validation.PositiveInt
  width: validation.PositiveInt
  num_layers: validation.PositiveInt
  num_heads: validation.PositiveInt
  num_kv_heads: validation.PositiveInt
  head_dim: validation.PositiveInt
  mlp_dim: validation.PositiveInt
  max_length: validation.PositiveInt
  rope_theta: validation.PositiveFloat = 10_000.0
  norm_epsilon: validation.NonNegativeFloat = 1e-6
  tie_embeddings: bool = True
  architecture_options: options_lib.ArchitectureOptions = (
    options_lib.ArchitectureOptions()
  )
  dtype: validation.FloatDtype = "float32"

  def __post_init__(self):
    super().__post_init__()
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"DecoderConfig: num_heads is {self.num_heads} and num_kv_heads is "
        f"{self.num_kv_heads}; the first must be a multiple of the second"
      )
    if self.head_dim % 2:
      raise ValueError(
        f"DecoderConfig.head_dim is {self.head_dim}; rotary embedding needs "
        "an even number"
      )
