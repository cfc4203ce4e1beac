# SPDX-License-Identifier: Apache-2.0
"""The options of an objective, and how an algorithm's own values fill them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, TypeVar

from rlaif_jax.core import validation
from rlaif_jax.ops import advantages as advantages_lib

Options = TypeVar("Options")

KlEstimator = Annotated[
  str, validation.OneOf((*advantages_lib.KL_ESTIMATORS, "k2_response"))
]
LossMean = Literal["sequence", "token", "response", "constant"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatioConfig(validation.Validated):
  """Importance ratios; None is the algorithm's own value.

  Attributes:
    low: the ratio of the updated to the old policy is clipped at 1 - low,
    high: and at 1 + high.
    dual: largest ratio of a negative advantage (dual clip); 0 is off.
    level: ratio of a "token", or of a "sequence" (GSPO).
    correction: weighs each token by the ratio of the policy to its sampler,
      where they differ: a copy in bfloat16, or of another sharding. "truncate"
      and "mask" bound the weights; see `ops.policy_gradient.sampler_weights`.
    correction_level: that ratio is of a "token" or of the whole "sequence".
    limit: largest weight of the correction.
  """

  low: validation.PositiveFloat | None = None
  high: validation.PositiveFloat | None = None
  dual: validation.NonNegativeFloat | None = None
  level: Literal["token", "sequence"] | None = None
  correction: Literal["none", "truncate", "mask"] = "none"
  correction_level: Literal["token", "sequence"] = "token"
  limit: Annotated[float, validation.Bounds(ge=1)] = 2.0

  def __post_init__(self):
    super().__post_init__()
    if self.dual and self.dual <= 1:
      raise ValueError(
        f"RatioConfig.dual is {self.dual}; it bounds ratios of negative "
        "advantages and must be above 1, or 0 for none (its paper uses 3)"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueConfig(validation.Validated):
  """Returns and the value network; None is the algorithm's own value.

  Algorithms that compare samples of a prompt read none of these.

  Attributes:
    gamma: discount of rewards per token.
    gae_lambda: lambda of generalised advantage estimates (PPO).
    clip: largest change of a value per update that lowers its loss (PPO); 0 is
      off.
    loss_weight: weight of the squared error of the value.
    whiten: advantages get mean 0 and variance 1 over the tokens of a rollout
      (PPO).
  """

  gamma: validation.Probability | None = None
  gae_lambda: validation.Probability | None = None
  clip: validation.NonNegativeFloat | None = None
  loss_weight: validation.PositiveFloat | None = None
  whiten: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(validation.Validated):
  """An objective without open values; a row of the table has one.

  The defaults are the paper's (arXiv:2309.00267, appendices A.3 and F). See
  `algorithms.RLConfig` for the fields.
  """

  beta: float = 0.05
  weight_score_by_one_minus_beta: bool = False
  kl_in: Literal["reward", "loss"] = "reward"
  kl_estimator: KlEstimator = "k2"
  loss_mean: LossMean = "sequence"
  ratio: RatioConfig = RatioConfig(low=0.2, high=0.2, dual=0.0, level="token")
  value: ValueConfig = ValueConfig(
    gamma=1.0, gae_lambda=0.95, clip=0.0, loss_weight=1.0, whiten=False
  )


def fill(own: Options, given: object) -> Options:
  """Returns `own` with the values of the same names that `given` has set.

  Args:
    own: a dataclass without open values.
    given: a dataclass that has at least its fields; None is not set.
  """
  changes = {}
  for field in dataclasses.fields(own):
    value = getattr(given, field.name)
    if dataclasses.is_dataclass(value):
      value = fill(getattr(own, field.name), value)
    if value is not None:
      changes[field.name] = value
  return dataclasses.replace(own, **changes)
