# SPDX-License-Identifier: Apache-2.0
"""Direct preference optimisation: trains a policy on pairs, without a reward.

The losses of a margin are in `ops.preference`. The reference's log-probs are
part of the data.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Callable, Literal, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.core import validation
from rlaif_jax.dpo import alternatives
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.ops import pair_accuracy
from rlaif_jax.ops import preference

Loss = Literal["logistic", "squared", "kto", "rrhf"] | Callable[..., Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPOConfig(validation.Validated):
  """The objective; the defaults are DPO's (arXiv:2305.18290, eq. 7).

  With h = log pi(y1) / ref(y1) - log pi(y2) / ref(y2) and the label
  p = P(first is better):

  Fields:
    beta: weight of the implied KL to the reference.
    loss: "logistic" is - p log sigmoid(beta h) - (1 - p) log sigmoid(-beta h),
      DPO for p in {0, 1}; "squared" is IPO (arXiv:2310.12036), the distance
      of h from 1 / (2 beta) or its opposite. "kto" and "rrhf" are the losses
      of `dpo.alternatives`; the second has no reference and no beta. A function
      takes h [pairs], p [pairs] and `beta`, and returns the loss of each pair.
    average_log_probs: a response's log-probs are the mean over its tokens, and
      not the sum, as TRL has it for IPO.
    imitation: weight of RRHF's log-prob of the preferred response.
    label_smoothing: probability s that a label is wrong (cDPO): p becomes
      p (1 - s) + (1 - p) s, for DPO and IPO. `RewardModelConfig` smooths with
      twice this number for the same labels.
  """

  beta: validation.PositiveFloat = 0.1
  loss: Loss = "logistic"
  average_log_probs: bool = False
  imitation: validation.NonNegativeFloat = 1.0
  label_smoothing: Annotated[float, validation.Bounds(ge=0, lt=0.5)] = 0.0

  def __post_init__(self):
    super().__post_init__()
    is_single = self.loss in ("kto", "rrhf")
    if is_single and (self.label_smoothing or self.average_log_probs):
      raise ValueError(
        f"DPOConfig.label_smoothing is {self.label_smoothing} and "
        f"average_log_probs {self.average_log_probs}; {self.loss!r} reads "
        "neither: leave them out, or use loss = 'logistic' or 'squared'"
      )


def margin_loss(
  ratio: Float[Array, "*pairs"],
  label: Float[Array, "*pairs"],
  config: DPOConfig,
) -> Float[Array, "*pairs"]:
  """Returns the loss of h, the difference of log-ratios, like the label."""
  label = label + config.label_smoothing * (1 - 2 * label)
  if callable(config.loss):
    return config.loss(ratio, label, beta=config.beta)
  if config.loss == "logistic":
    return preference.pair_logistic(config.beta * ratio, label)
  return preference.pair_squared(ratio, label, target=0.5 / config.beta)


def make_prepare(
  model: protocols.LanguageModel, config: DPOConfig, *, microbatches: int
) -> step_lib.Prepare | None:
  """Returns the `prepare` of `step.make_train_step`, if the loss has one."""
  if config.loss != "kto":
    return None
  return alternatives.make_kto_prepare(model, microbatches=microbatches)


def make_loss(
  model: protocols.LanguageModel, config: DPOConfig
) -> protocols.LossFn:
  """Returns the LossFn over a PairBatch with reference log-probs.

  Log-probs are those of whole responses with their end tokens, at temperature
  1. "chosen" is the response that the label prefers. `kl` is the mean of
  log pi / ref over both responses. They are not samples of the policy, so it
  measures the change on the data and can be negative.
  """
  if config.loss == "kto":
    return alternatives.make_kto_loss(model, beta=config.beta)
  if config.loss == "rrhf":
    return alternatives.make_rrhf_loss(model, imitation=config.imitation)

  def loss(
    params: protocols.Params, pairs: batches.PairBatch, key: jax.Array
  ) -> tuple[masked.WeightedSum, Mapping[str, masked.WeightedSum]]:
    del key
    weight = pairs.weight
    ref_first, ref_second = jnp.moveaxis(pairs.ref_log_probs, -1, 0)
    first, second = scoring.pair_log_probs(model, params, pairs)
    if config.average_log_probs:
      counts = scoring.pair_counts(pairs)
      first, ref_first = first / counts[0], ref_first / counts[0]
      second, ref_second = second / counts[1], ref_second / counts[1]
    # Pairs that only fill the batch have arbitrary values.
    real = weight > 0
    ratio_first = jnp.where(real, first - ref_first, 0.0)
    ratio_second = jnp.where(real, second - ref_second, 0.0)
    ratio = ratio_first - ratio_second
    prefers_first = pairs.label > 0.5

    def mean(values):
      return masked.weighted_sum(values, weight)

    margin = config.beta * ratio
    return mean(margin_loss(ratio, pairs.label, config)), {
      "accuracy": mean(pair_accuracy.correct(margin, pairs.label)),
      "reward_margin": mean(jnp.where(prefers_first, margin, -margin)),
      "chosen_log_prob": mean(jnp.where(prefers_first, first, second)),
      "rejected_log_prob": mean(jnp.where(prefers_first, second, first)),
      "kl": mean((ratio_first + ratio_second) / 2),
    }

  return loss
