# SPDX-License-Identifier: Apache-2.0
"""A BERT-type encoder whose output is one unit vector per text.

Post-norm transformer (arXiv:1810.04805) with mean pooling over the tokens, as
sentence encoders use it (arXiv:1908.10084). There is no dropout: the encoder
embeds and is not trained here.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import protocols
from rlaif_jax.core import validation
from rlaif_jax.models import attention
from rlaif_jax.models import layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig(validation.Validated):
  """Sizes of the encoder; all computation is in float32.

  Attributes:
    vocab_size: number of token ids, V.
    width: channels of the states and of the result, D.
    num_layers: number of blocks.
    num_heads: attention heads; a divisor of `width`.
    mlp_dim: channels between the two projections of a block's MLP.
    max_length: number of position embeddings, the longest row.
    num_types: number of token types; all tokens have type 0.
    norm_epsilon: added to the variance by LayerNorm.
  """

  vocab_size: validation.PositiveInt
  width: validation.PositiveInt
  num_layers: validation.PositiveInt
  num_heads: validation.PositiveInt
  mlp_dim: validation.PositiveInt
  max_length: validation.PositiveInt
  num_types: validation.PositiveInt = 2
  norm_epsilon: Annotated[float, validation.Bounds(gt=0)] = 1e-12

  def __post_init__(self):
    super().__post_init__()
    if self.width % self.num_heads:
      raise ValueError(
        f"BertConfig: width is {self.width} and num_heads is "
        f"{self.num_heads}; the heads must divide the width"
      )


class BertBlock(nn.Module):
  """Self-attention and MLP, each added to its input and then normalized."""

  config: BertConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"], valid: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    c = self.config
    x = self._norm("attention_norm")(x + self._attend(x, valid))
    hidden = _projection((c.mlp_dim,), ("embed", "mlp"), "up")(x)
    hidden = nn.gelu(hidden, approximate=False)
    out = _projection((c.width,), ("mlp", "embed"), "down")(hidden)
    return self._norm("mlp_norm")(x + out)

  def _norm(self, name: str) -> nn.LayerNorm:
    return layer_norm(self.config.norm_epsilon, name)

  def _attend(self, x, valid):
    c = self.config
    channels = c.width // c.num_heads
    query, key, value = (
      _projection((c.num_heads, channels), ("embed", "heads", "head_dim"), n)(x)
      for n in ("query", "key", "value")
    )
    scores = jnp.einsum("blhc,bshc->bhls", query, key) * channels**-0.5
    scores = jnp.where(valid[:, None, None, :], scores, attention.MASKED)
    mixed = jnp.einsum("bhls,bshc->blhc", jax.nn.softmax(scores), value)
    axes = ("heads", "head_dim", "embed")
    return _projection((c.width,), axes, "out", num_inputs=2)(mixed)


def _projection(features, axes, name, num_inputs=1) -> layers.Projection:
  return layers.Projection(
    features, axes, num_inputs=num_inputs, use_bias=True, name=name
  )


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
  """Returns LayerNorm whose variance is the mean squared deviation.

  The faster difference of two means loses digits where the mean is large.
  """
  return nn.LayerNorm(
    epsilon,
    use_fast_variance=False,
    scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("embed",)),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
    name=name,
  )


class BertEncoder(nn.Module):
  """Tokens to unit vectors."""

  config: BertConfig

  @nn.compact
  def __call__(
    self, tokens: Int[Array, "B L"], valid: Bool[Array, "B L"]
  ) -> Float[Array, "B D"]:
    """Returns embeddings of norm 1.

    Args:
      tokens: ids with the start and end tokens of each text; the text is at
        the start of the row.
      valid: whether a column has a token. A row without any gives zeros.
    """
    c = self.config
    table = layers.Embedding(c.vocab_size, c.width, name="tokens")
    x = table(tokens)
    x = x + self._table("positions", c.max_length)[None, : tokens.shape[1]]
    x = x + self._table("types", c.num_types)[None, :1]
    x = layer_norm(c.norm_epsilon, "norm")(x)
    for number in range(c.num_layers):
      x = BertBlock(c, name=f"blocks_{number}")(x, valid)
    weight = valid[:, :, None].astype(jnp.float32)
    mean = jnp.sum(x * weight, axis=1) / jnp.maximum(weight.sum(axis=1), 1.0)
    return mean / jnp.maximum(
      jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12
    )

  def _table(self, name: str, rows: int) -> Float[Array, "rows D"]:
    init = nn.with_logical_partitioning(
      nn.initializers.normal(0.02), ("position", "embed")
    )
    return self.param(name, init, (rows, self.config.width), jnp.float32)


def shapes(config: BertConfig) -> protocols.Params:
  """Returns the tree of parameters as shapes."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  tree = jax.eval_shape(
    BertEncoder(config).init, jax.random.key(0), tokens, tokens > 0
  )
  return nn.meta.unbox(tree)["params"]
