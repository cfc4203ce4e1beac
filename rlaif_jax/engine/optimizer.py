# SPDX-License-Identifier: Apache-2.0
"""Optimizers from a config: optax chains, schedules, decay masks."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Literal, Mapping

import jax
from jaxtyping import PyTree
import optax

from rlaif_jax.core import validation


Transform = optax.GradientTransformation


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(validation.Validated):
  """An optax optimizer; the defaults are the paper's (appendix G).

  Attributes:
    name: "adafactor" or "adamw".
    learning_rate: learning rate after warm-up.
    schedule: "constant", "linear" or "cosine".
    warmup_steps: number of steps of a linear warm-up.
    decay_steps: length of a linear or cosine schedule, including warm-up.
    weight_decay: weight decay of matrices; other parameters have none.
    beta2: decay rate of AdamW's second moment.
    clip_norm: maximum global norm of the gradient; 0: no clipping, as in the
      paper.
  """

  name: Literal["adafactor", "adamw"] = "adafactor"
  learning_rate: validation.PositiveFloat = 1e-5
  schedule: Literal["constant", "linear", "cosine"] = "constant"
  warmup_steps: validation.NonNegativeInt = 0
  decay_steps: validation.NonNegativeInt = 0
  weight_decay: validation.NonNegativeFloat = 0.0
  beta2: Annotated[float, validation.Bounds(ge=0, lt=1)] = 0.999
  clip_norm: validation.NonNegativeFloat = 0.0

  def __post_init__(self):
    super().__post_init__()
    if self.schedule != "constant" and self.decay_steps <= self.warmup_steps:
      raise ValueError(
        f"OptimizerConfig: the {self.schedule} schedule needs decay_steps > "
        f"warmup_steps; they are {self.decay_steps} and {self.warmup_steps}"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyOptimizers(validation.Validated):
  """Optimizers of a policy and of its value network."""

  policy: OptimizerConfig = OptimizerConfig()
  value: OptimizerConfig = OptimizerConfig()


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
  """Returns the learning rate as a function of the step."""
  rate, warmup = config.learning_rate, config.warmup_steps
  if config.schedule == "constant":
    after = optax.constant_schedule(rate)
  elif config.schedule == "linear":
    after = optax.linear_schedule(rate, 0.0, config.decay_steps - warmup)
  else:
    after = optax.cosine_decay_schedule(rate, config.decay_steps - warmup)
  if not warmup:
    return after
  ramp = optax.linear_schedule(rate / warmup, rate, warmup)
  return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """Returns the optax chain of a config."""
  schedule = make_schedule(config)

  def matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

  if config.name == "adafactor":
    inner = optax.adafactor(
      schedule,
      weight_decay_rate=config.weight_decay or None,
      weight_decay_mask=matrices,
    )
  else:
    inner = optax.adamw(
      schedule,
      b2=config.beta2,
      weight_decay=config.weight_decay,
      mask=matrices,
    )
  if config.clip_norm > 0:
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), inner)
  return inner


def make_joint_optimizer(
  configs: Mapping[str, OptimizerConfig],
) -> optax.GradientTransformation:
  """Returns `join` of the optimizers of some configs."""
  return join(
    {name: make_optimizer(config) for name, config in configs.items()}
  )


def join(
  transforms: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
  """Returns one optimizer per top-level entry of the parameters.

  Each entry's gradient is clipped by its own norm.

  Args:
    transforms: optimizers by the keys of the parameter tree, such as "policy"
      and "value".
  """

  def labels(params: Mapping[str, PyTree]):
    if set(params) != set(transforms):
      raise ValueError(
        f"parameters have the entries {sorted(params)} and the optimizers "
        f"{sorted(transforms)}; they must be the same"
      )
    return {
      name: jax.tree.map(functools.partial(_constant, name), tree)
      for name, tree in params.items()
    }

  return optax.multi_transform(dict(transforms), labels)


def _constant(value: str, leaf: object) -> str:
  del leaf
  return value
