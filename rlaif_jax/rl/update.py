# SPDX-License-Identifier: Apache-2.0
"""The loss that all algorithms of the table share, and their update."""

from __future__ import annotations

from typing import Callable, Mapping

import jax
import jax.numpy as jnp

from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.ops import advantages as advantages_lib
from rlaif_jax.ops import policy_gradient
from rlaif_jax.rl import algorithms


def make_loss(
  policy: protocols.LanguageModel,
  value: protocols.ScalarModel | None,
  config: algorithms.RLConfig,
) -> protocols.LossFn:
  """Returns the LossFn over a Rollout; params are {"policy", "value"}.

  Policy and value network share no parameters, so the sum of their losses
  trains each as if alone. The paper's value loss is (Z - V)^2, summed.

  Args:
    policy: functions of the policy.
    value: functions of the value network; None if the algorithm has none.
    config: objective and algorithm.
  """
  row, objective = config.row, config.objective

  def loss(params: protocols.Params, rollout: algorithms.Rollout, key):
    del key  # The samples are in the rollout.
    mask, texts = rollout.mask, rollout.texts
    if rollout.loss_mask is not None:
      mask = rollout.loss_mask
    # Cleared before use, not after: 0 times the slope at NaN is NaN.
    old_log_probs, ref_log_probs, advantages, targets = (
      jnp.where(mask > 0, x, 0.0)
      for x in (
        rollout.log_probs,
        rollout.ref_log_probs,
        rollout.advantages,
        rollout.targets,
      )
    )
    log_probs = scoring.response_log_probs(
      policy,
      params["policy"],
      texts,
      temperature=config.sampling.temperature,
    )
    per_token = jnp.zeros_like(mask)
    metrics = {}
    if row.needs_value:
      values = algorithms.state_values(value, params["value"], texts)
      value_terms = policy_gradient.value_loss(
        values, targets, rollout.values, clip=objective.value.clip
      )
      per_token += objective.value.loss_weight * value_terms
      metrics["value_loss"] = masked.weighted_sum(value_terms, mask)
      metrics["target_square"] = masked.weighted_sum(targets**2, mask)
      if row.baseline_at_update:
        advantages = targets - jax.lax.stop_gradient(values)
    terms, clipped = _policy_terms(
      config, log_probs, old_log_probs, advantages, mask
    )
    metrics |= clipped
    if rollout.correction is not None:
      terms *= jnp.where(mask > 0, rollout.correction, 0.0)
    per_token += terms
    if objective.kl_in == "loss" and objective.beta:
      per_token += objective.beta * _kl(
        objective.kl_estimator, log_probs, ref_log_probs, mask
      )
    metrics["advantage_square"] = masked.weighted_sum(advantages**2, mask)
    return _reduce(per_token, mask, config), metrics

  return loss


def _policy_terms(config, log_probs, old_log_probs, advantages, mask):
  """Returns the algorithm's loss of each token, and metrics of its clip."""
  row, ratio = config.row, config.objective.ratio
  if row.term is not None:
    return row.term(log_probs, old_log_probs, advantages, config), {}
  if not row.clips:
    return policy_gradient.reinforce(log_probs, advantages), {}
  bounds = {"low": ratio.low, "high": ratio.high}
  log_ratio = policy_gradient.log_ratios(
    log_probs, old_log_probs, mask, level=ratio.level
  )
  terms = policy_gradient.ppo_clip(
    log_ratio, advantages, **bounds, dual=ratio.dual
  )
  fraction = policy_gradient.clip_fraction(log_ratio, **bounds)
  return terms, {"clip_fraction": masked.weighted_sum(fraction, mask)}


def _kl(estimator: str, log_probs, ref_log_probs, mask) -> jax.Array:
  if estimator == "k2_response":
    return advantages_lib.kl_k2_response(log_probs, ref_log_probs, mask)
  return advantages_lib.KL_ESTIMATORS[estimator](log_probs, ref_log_probs)


def make_update(
  policy: protocols.LanguageModel,
  value: protocols.ScalarModel | None,
  config: algorithms.RLConfig,
  optimizers: Mapping[str, optimizer_lib.Transform],
  *,
  microbatches: int = 1,
  combine: step_lib.Combine | None = None,
) -> tuple[
  optimizer_lib.Transform,
  Callable[..., tuple[step_lib.TrainState, step_lib.Metrics]],
]:
  """Returns the optimizer of {"policy", "value"}, and the update on a Rollout.

  Args:
    policy: see `make_loss`, like the following two.
    value: functions of the value network.
    config: objective and algorithm.
    optimizers: of "policy" and "value"; the latter is unused if there is no
      value network.
    microbatches: number of gradient-accumulation steps per update.
    combine: see `step.make_train_step`.
  """
  names = ["policy"] if value is None else ["policy", "value"]
  tx = optimizer_lib.join({name: optimizers[name] for name in names})
  update = step_lib.make_train_step(
    make_loss(policy, value, config),
    tx,
    microbatches=microbatches,
    epochs=config.epochs,
    minibatches=config.minibatches,
    combine=combine,
  )
  return tx, update


def _reduce(
  per_token: jax.Array, mask: jax.Array, config: algorithms.RLConfig
) -> masked.WeightedSum:
  mean = config.objective.loss_mean
  if mean == "response":
    count = jnp.maximum(jnp.sum(mask, axis=2, keepdims=True), 1.0)
    per_token = per_token / count
  total = masked.weighted_sum(per_token, mask)
  if mean == "token":
    return total
  weight = jnp.asarray(mask.shape[0] * mask.shape[1], jnp.float32)
  if mean == "constant":
    weight *= config.sampling.max_tokens
  return masked.WeightedSum(total.total, weight)
