# SPDX-License-Identifier: Apache-2.0
"""Sizes of T5 1.0, T5 1.1 and Flan-T5."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from rlaif_jax.core import validation

# T5X's activations: "linear", and Flax's functions by name. "gelu" is the
# approximation by tanh.
ACTIVATIONS = tuple(
  "linear relu gelu silu swish tanh sigmoid elu celu selu softplus leaky_relu "
  "log_sigmoid hard_sigmoid hard_silu hard_swish hard_tanh soft_sign".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5LayerConfig(validation.Validated):
  """Sizes of a layer of either stack.

  Attributes:
    width: channels of the hidden states.
    num_heads: number of attention heads.
    head_dim: channels of a head.
    mlp_dim: channels inside the MLP.
    gated: whether the MLP is gated.
    activation: of the MLP, one of ACTIVATIONS; "": "gelu" if gated, or else
      "relu".
    dtype: of the computation, "float32" or "bfloat16".
  """

  width: validation.PositiveInt
  num_heads: validation.PositiveInt
  head_dim: validation.PositiveInt
  mlp_dim: validation.PositiveInt
  gated: bool = True
  activation: Annotated[str, validation.OneOf(("", *ACTIVATIONS))] = ""
  dtype: validation.FloatDtype = "float32"

  @property
  def mlp_activation(self) -> str:
    """The name of the MLP's activation."""
    return self.activation or ("gelu" if self.gated else "relu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config(T5LayerConfig):
  """Sizes of an encoder-decoder.

  T5 1.1 and Flan-T5 are gated and untied. T5 1.0 is not gated, is tied and
  has scaled logits.

  Attributes:
    vocab_size: number of tokens of the vocabulary.
    num_layers: number of encoder layers.
    num_decoder_layers: number of decoder layers.
    max_length: maximum number of tokens of a prompt with its response. The
      model itself has no maximum.
    relpos_buckets: number of buckets of relative positions.
    relpos_max_distance: distance from which on all share a bucket.
    tie_embeddings: whether the token table also gives the logits.
    scale_logits: whether states are multiplied by width ** -0.5 before tied
      logits.
    num_pieces: number of ids that the vocabulary has pieces for; the others,
      which only fill the table, get the logit NO_PIECE. 0: all.
  """

  vocab_size: validation.PositiveInt
  num_layers: validation.PositiveInt
  num_decoder_layers: validation.PositiveInt
  max_length: validation.PositiveInt
  relpos_buckets: int = 32
  relpos_max_distance: int = 128
  tie_embeddings: bool = False
  scale_logits: bool = False
  num_pieces: validation.NonNegativeInt = 0

  def __post_init__(self):
    super().__post_init__()
    if self.relpos_buckets < 4 or self.relpos_buckets % 4:
      raise ValueError(
        f"T5Config.relpos_buckets is {self.relpos_buckets}; it must be a "
        "positive multiple of 4 (half for each direction, half of it exact)"
      )
    # A table has a row for each distance.
    if not self.relpos_buckets // 2 < self.relpos_max_distance <= 1 << 20:
      raise ValueError(
        f"T5Config.relpos_max_distance is {self.relpos_max_distance}; it must "
        f"exceed half of relpos_buckets ({self.relpos_buckets}), and be at "
        f"most {1 << 20}"
      )
    if self.scale_logits and not self.tie_embeddings:
      raise ValueError(
        "T5Config.scale_logits is True and tie_embeddings is False, which no "
        "public layout has; use scale_logits=False or tie_embeddings=True"
      )
