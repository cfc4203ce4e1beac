# SPDX-License-Identifier: Apache-2.0
"""Optimizers from a config: optax chains, schedules, decay masks."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Callable, Literal, Mapping

import jax
from jaxtyping import PyTree
import optax

from rlaif_jax.core import lora_config
from rlaif_jax.core import validation


Transform = optax.GradientTransformation

# `OptimizerConfig.head_rate` of Adafactor.
HEAD_RATE = 0.1
_BETA2 = {"adamw": 0.999, "rmsprop": 0.99}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(validation.Validated):
  """An optax optimizer; the defaults are the paper's (appendix G).

  The paper says Adafactor with 1e-5, and neither whether that rate is relative
  to the size of a parameter nor how fast a new head learns. Here it is
  absolute, and the head has a rate of its own: with a relative rate, a head
  that starts at zero would move by 1e-8 per update.

  Attributes:
    name: "adafactor", "adamw" or "rmsprop" (DPO's); or a function that takes
      the learning rate, a number or schedule, as `learning_rate` and returns an
      optax chain: `optax.lion`, or your own. Its other options are its own
      arguments.
    learning_rate: learning rate after warm-up.
    head_rate: largest change of a reward or value per update through its scalar
      head: the kernel [D, 1] learns at head_rate / D, the bias at head_rate.
      0: the head learns at `learning_rate`. None: 0.1 with Adafactor, 0 with
      the others.
    parameter_scale: multiplies each Adafactor update by the root mean square
      of its parameter, at least 1e-3 (Shazeer and Stern 2018, section 8), as
      T5 does with rates near 1e-2.
    schedule: "constant", "linear" or "cosine"; or an optax schedule, a
      function of the step (after warm-up) that returns the learning rate in
      place of `learning_rate`.
    warmup_steps: number of steps of a linear warm-up.
    decay_steps: length of a linear or cosine schedule, including warm-up.
    weight_decay: weight decay of matrices, multiplied by the learning rate;
      other parameters have none.
    beta2: decay rate of the second moment. None: 0.999 with AdamW, 0.99 with
      RMSprop.
    clip_norm: maximum global norm of the gradient; 0: no clipping, as in the
      paper.
    lora: trains adapters of the model, and its scalar head if it has one, in
      place of all parameters, which may then be stored in bfloat16.
  """

  name: Literal["adafactor", "adamw", "rmsprop"] | Callable[..., Transform] = (
    "adafactor"
  )
  learning_rate: validation.PositiveFloat = 1e-5
  head_rate: validation.NonNegativeFloat | None = None
  parameter_scale: bool = False
  schedule: Literal["constant", "linear", "cosine"] | optax.Schedule = (
    "constant"
  )
  warmup_steps: validation.NonNegativeInt = 0
  decay_steps: validation.NonNegativeInt = 0
  weight_decay: validation.NonNegativeFloat = 0.0
  beta2: Annotated[float, validation.Bounds(ge=0, lt=1)] | None = None
  clip_norm: validation.NonNegativeFloat = 0.0
  lora: lora_config.LoraConfig | None = None

  def __post_init__(self):
    super().__post_init__()
    if callable(self.name) and (self.weight_decay or self.beta2 is not None):
      raise ValueError(
        f"OptimizerConfig.weight_decay is {self.weight_decay} and beta2 "
        f"{self.beta2}, and name is the function {self.name}; bind them to the "
        "function itself"
      )
    is_decay = self.schedule in ("linear", "cosine")
    if is_decay and self.decay_steps <= self.warmup_steps:
      raise ValueError(
        f"OptimizerConfig: the {self.schedule} schedule needs decay_steps > "
        f"warmup_steps; they are {self.decay_steps} and {self.warmup_steps}"
      )
    if self.beta2 is not None and self.name not in _BETA2:
      raise ValueError(
        f"OptimizerConfig.beta2 is {self.beta2} and name is {self.name!r}, "
        "whose decay rate has a schedule of its own; leave beta2 out, or use "
        "'adamw' or 'rmsprop'"
      )
    if self.parameter_scale and self.name != "adafactor":
      raise ValueError(
        f"OptimizerConfig.parameter_scale is True and name is {self.name!r}; "
        "only 'adafactor' has it"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyOptimizers(validation.Validated):
  """Optimizers of a policy and of its value network."""

  policy: OptimizerConfig = OptimizerConfig()
  value: OptimizerConfig = OptimizerConfig()

  def transforms(self) -> dict[str, optax.GradientTransformation]:
    """Returns the optax chains by "policy" and "value"."""
    return {
      "policy": make_optimizer(self.policy, trains_adapters=True),
      "value": make_optimizer(self.value, trains_adapters=True),
    }

  def lora(self) -> dict[str, lora_config.LoraConfig | None]:
    """Returns the adapters to train by "policy" and "value"."""
    return {"policy": self.policy.lora, "value": self.value.lora}


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
  """Returns the learning rate as a function of the step."""
  rate, warmup = config.learning_rate, config.warmup_steps
  if callable(config.schedule):
    after = config.schedule
    rate = float(after(0))
  elif config.schedule == "constant":
    after = optax.constant_schedule(rate)
  elif config.schedule == "linear":
    after = optax.linear_schedule(rate, 0.0, config.decay_steps - warmup)
  else:
    after = optax.cosine_decay_schedule(rate, config.decay_steps - warmup)
  if not warmup:
    return after
  ramp = optax.linear_schedule(rate / warmup, rate, warmup)
  return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(
  config: OptimizerConfig, *, trains_adapters: bool = False
) -> optax.GradientTransformation:
  """Returns the optax chain of a config.

  Args:
    config: optimizer.
    trains_adapters: whether the caller trains the adapters of `config.lora`.

  Raises:
    ValueError: if the config has adapters and the caller trains none.
  """
  if config.lora is not None and not trains_adapters:
    raise ValueError(
      f"OptimizerConfig.lora is {config.lora}; this training has no adapters "
      "of that kind, leave it None (an ensemble's are EnsembleConfig.lora)"
    )
  schedule = make_schedule(config)
  beta2 = config.beta2
  if beta2 is None:
    beta2 = _BETA2.get(config.name)

  def matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

  if callable(config.name):
    inner = config.name(learning_rate=schedule)
    if not isinstance(inner, Transform):
      raise ValueError(
        f"OptimizerConfig.name is {config.name}, which returned "
        f"{type(inner).__name__}; it must return an "
        "optax.GradientTransformation"
      )
  elif config.name == "adafactor":
    # optax.adafactor would not multiply its weight decay by the rate. Without a
    # rate it returns a descent direction.
    inner = optax.chain(
      optax.adafactor(None, multiply_by_parameter_scale=config.parameter_scale),
      optax.add_decayed_weights(-config.weight_decay, matrices),
      optax.scale_by_learning_rate(schedule, flip_sign=False),
    )
  elif config.name == "rmsprop":
    # As in PyTorch: the root of the moment plus 1e-8, which starts at 0.
    inner = optax.chain(
      optax.scale_by_rms(beta2, eps=1e-8, eps_in_sqrt=False),
      optax.add_decayed_weights(config.weight_decay, matrices),
      optax.scale_by_learning_rate(schedule),
    )
  else:
    inner = optax.adamw(
      schedule,
      b2=beta2,
      weight_decay=config.weight_decay,
      mask=matrices,
    )
  head_rate = config.head_rate
  if head_rate is None:
    head_rate = HEAD_RATE if config.name == "adafactor" else 0.0
  if head_rate:
    inner = optax.chain(inner, _scale_heads(head_rate / config.learning_rate))
  if config.clip_norm > 0:
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), inner)
  return inner


def _scale_heads(factor: float) -> optax.GradientTransformation:
  """Multiplies updates of scalar heads by `factor`, of kernels by 1 / D too."""

  def scale(path, update):
    names = [getattr(key, "key", None) for key in path]
    if names[-2:-1] != ["head"]:
      return update
    # A kernel is [D, 1], or [k, D, 1] in an ensemble.
    width = update.shape[-2] if names[-1] == "kernel" else 1
    return update * (factor / width)

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates)
  )


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
