# SPDX-License-Identifier: Apache-2.0
"""Policy-gradient training as pure functions over explicit state."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Callable, NamedTuple, Sequence

import jax
from jaxtyping import Array, Float, Key

from rlaif_jax.api import reward_parts
from rlaif_jax.api import rewards
from rlaif_jax.core import batches
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import lora_config
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.model_io import initialization
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import rollout as rollout_lib
from rlaif_jax.rl import update as update_lib

TrainState = step_lib.TrainState


class PolicyGradient(NamedTuple):
  """The functions of `policy_gradient`.

  Attributes:
    init: (key) -> TrainState at step 0: the policy's parameters, and those of
      a value network if the algorithm has one, whose head is initialised by
      the key.
    rollout: (state, prompts, key) -> Rollout [B, N, R]: samples responses,
      scores them, and computes advantages.
    update: (state, rollout) -> (state, metrics). Donates the state. The
      metrics are scalars: `loss`, `score`, `kl`, `tokens`, `grad_norm`, ...
    policy: (state) -> the policy as a PretrainedModel, which can generate,
      label and be saved. Without adapters it refers to the state's parameters,
      so it is valid until the next update.
  """

  init: Callable[[Key[Array, ""]], TrainState]
  rollout: Callable[
    [TrainState, batches.PromptBatch, Key[Array, ""]], algorithms.Rollout
  ]
  update: Callable[
    [TrainState, algorithms.Rollout],
    tuple[TrainState, dict[str, Float[Array, ""]]],
  ]
  policy: Callable[[TrainState], pretrained.PretrainedModel]


def policy_gradient(
  policy: pretrained.PretrainedModel,
  reward: rewards.AnyReward | Sequence[reward_parts.RewardPart],
  optimizer: optimizer_lib.Transform,
  *,
  algorithm: str | algorithms.Algorithm = "reinforce",
  kl_coef: float | None = None,
  value_optimizer: optimizer_lib.Transform | None = None,
  lora: lora_config.LoraConfig | None = None,
  compute: compute_lib.ComputeConfig | None = None,
  **options: Any,
) -> PolicyGradient:
  """Returns the functions that train a policy by RL (paper, section 2.2).

  RLAIF, RLHF and direct RLAIF differ in the reward alone: a model of AI labels,
  a model of human labels, or a labeler's own score.

  Args:
    policy: language model that training starts from; also the reference of the
      KL penalty. Its parameters are not changed.
    reward: see `rewards.as_reward`; or a list of `RewardPart`, whose numbers
      are in the metrics of an update.
    optimizer: any optax transformation.
    algorithm: "reinforce" (the paper's, with a value network), "ppo", "rloo",
      "grpo", "dr_grpo", "dapo" or "gspo"; or a `rl.algorithms.Algorithm` of
      your own.
    kl_coef: weight of the KL to the reference, the paper's beta; None is that
      of the algorithm (0.05 of "reinforce").
    value_optimizer: of the value network; None uses `optimizer`.
    lora: trains adapters of policy and value network, which share the policy's
      parameters with the reference; None trains copies of all parameters.
    compute: microbatches, remat and placements. The mesh is the policy's.
    **options: further fields of `rl.algorithms.RLConfig`, such as
      `samples_per_prompt`, `kl_in` or `sampling`.

  Raises:
    ValueError: if an option is invalid, or the reward does not fit the policy.
  """
  compute = compute or compute_lib.ComputeConfig()
  options.setdefault("sampling", _default_sampling(policy))
  config = algorithms.RLConfig(algorithm=algorithm, beta=kl_coef, **options)
  mesh, placement = policy.mesh, compute.placement
  scorer = reward_parts.as_reward(reward, policy)
  reference = pretrained.load_reference(policy, mesh, placement)
  frozen = {"reference": reference.params, "scorer": scorer.params}
  value = initialization.value_model(config, policy.config, mesh, compute)
  collect = rollout_lib.make_collect(
    policy.functions,
    value,
    scorer.score,
    config=config,
    eos_ids=policy.tokenizer.eos_ids,
    reshard=placement.rollout
    and mesh_lib.make_reshard(policy.functions.init, mesh, placement.rollout),
  )
  start = functools.partial(
    initialization.policy_params,
    policy,
    value,
    mesh,
    placement=placement.value,
    lora={"policy": lora, "value": lora},
  )
  parts = {"policy": trainable.Frozen()}
  if lora is not None:
    parts = start(key=jax.random.key(0))[1]
  rest = trainable.join(parts)
  tx, step = update_lib.make_update(
    pretrained.language_model(policy.config, mesh, compute),
    value,
    config,
    {"policy": optimizer, "value": value_optimizer or optimizer},
    microbatches=compute.microbatches,
    combine=rest.combine,
  )

  def init(key: Key[Array, ""]) -> TrainState:
    return step_lib.state_from_params(start(key=key)[0], tx, mesh)

  def rollout(
    state: TrainState, prompts: batches.PromptBatch, key: Key[Array, ""]
  ) -> algorithms.Rollout:
    return collect(rest.attached(state.params), frozen, prompts, key)[0]

  def update(
    state: TrainState, found: algorithms.Rollout
  ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    # The key orders the minibatches of PPO and GRPO.
    key = jax.random.fold_in(jax.random.key(0), state.step)
    state, metrics = step(state, found, key, rest.params)
    return state, _means(metrics, found)

  def current(state: TrainState) -> pretrained.PretrainedModel:
    params = parts["policy"].merged(state.params["policy"])
    return dataclasses.replace(policy, params=params)

  return PolicyGradient(init, rollout, update, current)


def _default_sampling(
  policy: pretrained.PretrainedModel,
) -> decode.SamplingConfig:
  """Returns the paper's temperature, and the responses of the policy's SFT."""
  return decode.SamplingConfig(
    max_tokens=policy.sequence.max_response, temperature=0.9
  )


@jax.jit
def _means(
  metrics: step_lib.Metrics, rollout: algorithms.Rollout
) -> dict[str, Float[Array, ""]]:
  """Returns the metrics of an update and its rollout as scalars."""
  metrics = {**metrics, **rollout_lib.rollout_metrics(rollout)}
  return {name: value.mean() for name, value in metrics.items()}
