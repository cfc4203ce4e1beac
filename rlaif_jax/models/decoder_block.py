# SPDX-License-Identifier: Apache-2.0
"""One layer of a decoder."""

from __future__ import annotations

import flax.linen as nn

from rlaif_jax.models import decoder_config
from rlaif_jax.models import layers
from rlaif_jax.models import layouts
from rlaif_jax.models import self_attention


class Block(nn.Module):
  """Attention and gated MLP, with norms before both, after both (OLMo 2), or
  before and after (Gemma).

  A subclass may replace the attention layer.
  """

  config: decoder_config.DecoderConfig
  is_local: bool

  attention_type = self_attention.Attention

  @nn.compact
  def __call__(self, x, layout, cached=None, columns=None):
    """Returns [B, L or T, D] and the layer's keys and values.

    See `self_attention.Attention` for the arguments.
    """
    c = self.config
    options = c.architecture_options

    def norm(x, name, is_there):
      if not is_there:
        return x
      return layers.RMSNorm(
        c.norm_epsilon, c.dtype, offset=options.norm_offset, name=name
      )(x)

    out, layer = self.attention_type(
      num_heads=c.num_heads,
      num_kv_heads=c.num_kv_heads,
      head_dim=c.head_dim,
      rope_theta=c.rope_theta,
      is_local=self.is_local,
      norm_epsilon=c.norm_epsilon,
      options=options,
      dtype=c.dtype,
      name="attention",
    )(norm(x, "attention_norm", options.pre_norms), layout, cached, columns)
    if columns is not None:
      x = layouts.take_columns(x, columns)
    x = x + norm(out, "attention_post_norm", options.post_norms)
    mlp = layers.GatedMLP(c.mlp_dim, c.dtype, options.activation, name="mlp")
    out = mlp(norm(x, "mlp_norm", options.pre_norms))
    return x + norm(out, "mlp_post_norm", options.post_norms), layer
