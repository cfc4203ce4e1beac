# SPDX-License-Identifier: Apache-2.0
"""The two kinds of reward model: losses, pair scores and limits by kind.

A scalar model rates one response, as in the paper. A difference model reads two
responses together (`reward.difference`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Callable, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.ops import preference
from rlaif_jax.reward import difference
from rlaif_jax.reward import model as reward_model

KINDS = ("scalar", "difference")

# (params, pairs) -> scores of both responses
PairScorer = Callable[
  [protocols.Params, batches.PairBatch],
  tuple[Float[Array, "*pairs"], Float[Array, "*pairs"]],
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelConfig(validation.Validated):
  """A reward model and its loss.

  Attributes:
    kind: "scalar" rates one response, as in the paper; "difference" reads two
      responses and returns how much better the first one is. `weight_pairs`
      and `train_online_dpo` take both.
    label_smoothing: see `ops.preference.pair_logistic`; 0 in the paper. Scalar
      models only.
    loss: None: that of the kind; or a function of margins [pairs], labels
      [pairs] and `label_smoothing` that returns the loss of each pair. Scalar
      models only.
    label_counts: numbers of labels of a learning curve. One more model is
      trained on the first n labels for each n.
  """

  kind: Literal["scalar", "difference"] = "scalar"
  label_smoothing: Annotated[float, validation.Bounds(ge=0, lt=1)] = 0.0
  loss: Callable[..., Array] | None = None
  label_counts: tuple[validation.PositiveInt, ...] = ()

  def __post_init__(self):
    super().__post_init__()
    if self.kind == "difference" and self.label_smoothing:
      raise ValueError(
        f"RewardModelConfig.label_smoothing is {self.label_smoothing}; a "
        "difference model has no label smoothing, set it to 0"
      )
    if self.kind == "difference" and self.loss is not None:
      raise ValueError(
        f"RewardModelConfig.loss is {self.loss}; a difference model has its "
        'own loss, leave it None or set kind to "scalar"'
      )


def make_loss(
  config: RewardModelConfig, model: protocols.ScalarModel
) -> protocols.LossFn:
  """Returns the loss of a kind of reward model over pairs."""
  if config.kind == "difference":
    return difference.make_loss(model)
  return reward_model.make_loss(
    model,
    label_smoothing=config.label_smoothing,
    pair_loss=config.loss or preference.pair_logistic,
  )


def can_pack(config: RewardModelConfig, model: protocols.ScalarModel) -> bool:
  """Returns whether the loss reads packed pairs."""
  return config.kind == "scalar" and model.is_causal


def make_pair_scorer(kind: str, model: protocols.ScalarModel) -> PairScorer:
  """Returns the jitted (params, pairs) -> scores of both responses, [B] each.

  The scores of a difference model are its margin and 0.
  """

  def of_difference(params, pairs):
    margin = difference.difference(model, params, pairs.first, pairs.second)
    return margin, jnp.zeros_like(margin)

  if kind == "difference":
    return jax.jit(of_difference)
  return jax.jit(functools.partial(reward_model.pair_rewards, model))


def check_fits(
  config: RewardModelConfig,
  sequence: converters.SequenceConfig,
  tokenizer: protocols.Tokenizer,
  *,
  vocab_size: int,
  max_length: int,
) -> None:
  """Checks that the model can read its texts.

  Raises:
    ValueError: if a prompt with both responses of a difference model is longer
      than `max_length` tokens.
  """
  if config.kind == "difference":
    sequence = dataclasses.replace(
      sequence, max_response=2 * sequence.max_response
    )
  converters.check_fits(
    sequence, tokenizer, vocab_size=vocab_size, max_length=max_length
  )
