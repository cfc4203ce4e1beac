# SPDX-License-Identifier: Apache-2.0
"""One layer of a decoder."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from rlaif_jax.models import attention
from rlaif_jax.models import layers
from rlaif_jax.models import self_attention


class Block(nn.Module):
  """Pre-norm attention and gated MLP; Gemma norms what comes out, too."""

  config: Any  # A decoder.DecoderConfig.
  is_local: bool

  @nn.compact
  def __call__(
    self, x, positions, valid, mask, cached=None, before=None, columns=None
  ):
    """See `self_attention.Attention`; with `columns`, x [B, T, D] comes out."""
    c = self.config
    v = c.variant

    def norm(name):
      return layers.RMSNorm(
        c.norm_epsilon, c.dtype, offset=v.norm_offset, name=name
      )

    out, state = self_attention.Attention(
      num_heads=c.num_heads,
      num_kv_heads=c.num_kv_heads,
      head_dim=c.head_dim,
      rope_theta=c.rope_theta,
      is_local=self.is_local,
      norm_epsilon=c.norm_epsilon,
      variant=v,
      dtype=c.dtype,
      name="attention",
    )(
      norm("attention_norm")(x), positions, valid, mask, cached, before, columns
    )
    if columns is not None:
      x = attention.take_columns(x, columns)
    x = x + (norm("attention_post_norm")(out) if v.post_norms else out)
    mlp = layers.GatedMLP(c.mlp_dim, c.dtype, v.activation, name="mlp")
    out = mlp(norm("mlp_norm")(x))
    return x + (norm("mlp_post_norm")(out) if v.post_norms else out), state
