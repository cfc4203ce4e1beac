# SPDX-License-Identifier: Apache-2.0
"""KL estimators, shaped rewards, returns and advantages.

Functions of one trajectory take [R] arrays and a mask; the caller vmaps. Masked
values are never read.
"""

from __future__ import annotations

from typing import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def kl_k1(
  log_probs: Float[Array, "*rows"], ref_log_probs: Float[Array, "*rows"]
) -> Float[Array, "*rows"]:
  """Returns log p - log q, unbiased for KL(p || q).

  Use it in the reward: as a loss, its expected gradient is 0.
  """
  return log_probs - ref_log_probs


def kl_k2(
  log_probs: Float[Array, "*rows"], ref_log_probs: Float[Array, "*rows"]
) -> Float[Array, "*rows"]:
  """Returns (log p - log q)^2 / 2, a biased estimate of KL(p || q).

  As a loss, its gradient at the sampling policy is that of KL(p || q), without
  bias. For token log-probs this is the KL at each visited state, without the
  effect of a token on later states. For log-probs summed over a response, it is
  the KL of the whole response, as in the objective of the paper.
  """
  return 0.5 * (log_probs - ref_log_probs) ** 2


def kl_k3(
  log_probs: Float[Array, "*rows"], ref_log_probs: Float[Array, "*rows"]
) -> Float[Array, "*rows"]:
  """Returns q/p - 1 - log(q/p), unbiased for KL(p || q) and non-negative.

  As a loss, its gradient at the sampling policy is that of KL(q || p), the
  other direction (at the states that p visits, for token log-probs).
  """
  log_ratio = ref_log_probs - log_probs
  return jnp.exp(log_ratio) - 1.0 - log_ratio


def kl_k2_response(
  log_probs: Float[Array, "*rows R"],
  ref_log_probs: Float[Array, "*rows R"],
  mask: Float[Array, "*rows R"],
) -> Float[Array, "*rows R"]:
  """Returns k2 of the whole response, in equal parts at each of its tokens.

  Summed over a response, its gradient at the sampling policy is that of the KL
  of whole responses, as in the objective of the paper: unlike per-token
  estimates, it includes the effect of a token on later states.
  """
  gap = jnp.where(mask > 0, log_probs - ref_log_probs, 0.0)
  total = 0.5 * jnp.sum(gap, axis=-1, keepdims=True) ** 2
  count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1.0)
  return jnp.where(mask > 0, total / count, 0.0)


# Schulman, "Approximating KL Divergence" (2020). Arguments: log-probs of the
# sampled tokens under the policy p and the reference q.
KL_ESTIMATORS: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  "k1": kl_k1,
  "k2": kl_k2,
  "k3": kl_k3,
}


def shaped_rewards(
  score: Float[Array, ""],
  log_probs: Float[Array, " R"],
  ref_log_probs: Float[Array, " R"],
  mask: Float[Array, " R"],
  *,
  beta: float,
  kl_in_reward: bool,
  weight_score_by_one_minus_beta: bool = True,
) -> Float[Array, " R"]:
  """Returns per-token rewards of one response (paper, appendices A.3, F).

      (1 - beta) score   at the last real token
      - beta (log p - log q)   at every real token, if the KL is in the reward

  Args:
    score: [] of the whole response.
    log_probs: [R] under the policy.
    ref_log_probs: [R] under the reference.
    mask: [R], 1 for real tokens, the end token included.
    beta: weight of the KL.
    kl_in_reward: subtracts the KL from the rewards.
    weight_score_by_one_minus_beta: the paper's v2 and v3; False is v1.

  Returns:
    [R]; all zero if the response has no token.
  """
  places = jnp.arange(mask.shape[0])
  last = jnp.max(jnp.where(mask > 0, places, -1))
  weight = 1.0 - beta if weight_score_by_one_minus_beta else 1.0
  rewards = jnp.where(places == last, weight * score, 0.0)
  if kl_in_reward:
    kl = kl_k1(log_probs, ref_log_probs)
    rewards -= beta * jnp.where(mask > 0, kl, 0.0)
  return jax.lax.stop_gradient(rewards)


def returns(
  rewards: Float[Array, " R"], mask: Float[Array, " R"], *, gamma: float
) -> Float[Array, " R"]:
  """Returns Z_t = sum_{s >= t} gamma^(s-t) R_s, 0 at padding: [R]."""

  def step(later, inputs):
    reward, real = inputs
    value = jnp.where(real > 0, reward + gamma * later, 0.0)
    return value, value

  _, result = jax.lax.scan(step, jnp.zeros(()), (rewards, mask), reverse=True)
  return result


def gae(
  rewards: Float[Array, " R"],
  values: Float[Array, " R"],
  mask: Float[Array, " R"],
  *,
  gamma: float,
  lam: float,
) -> Float[Array, " R"]:
  """Returns generalised advantage estimates (arXiv:1506.02438): [R].

  The state after the last real token has value 0, also for a response that is
  truncated at its length limit.
  """

  def step(carry, inputs):
    later, next_value = carry
    reward, value, real = inputs
    delta = reward + gamma * next_value - value
    advantage = jnp.where(real > 0, delta + gamma * lam * later, 0.0)
    return (advantage, jnp.where(real > 0, value, 0.0)), advantage

  start = (jnp.zeros(()), jnp.zeros(()))
  _, result = jax.lax.scan(step, start, (rewards, values, mask), reverse=True)
  return result


def leave_one_out(scores: Float[Array, "G N"]) -> Float[Array, "G N"]:
  """Returns each score minus the mean of the others in its group.

  This is RLOO's advantage (arXiv:2402.14740).

  Raises:
    ValueError: N is 1.
  """
  size = scores.shape[1]
  if size < 2:
    raise ValueError(
      f"leave_one_out: scores have the shape {scores.shape}; a group needs at "
      "least 2 samples: increase RLConfig.samples_per_prompt"
    )
  others = (jnp.sum(scores, axis=1, keepdims=True) - scores) / (size - 1)
  return scores - others


def group_centred(scores: Float[Array, "G N"]) -> Float[Array, "G N"]:
  """Returns each score minus the mean of its group: Dr. GRPO's advantage.

  arXiv:2503.20783, section 3.2: no division by the standard deviation.
  """
  return scores - jnp.mean(scores, axis=1, keepdims=True)


def group_normalised(
  scores: Float[Array, "G N"], epsilon: float = 1e-4
) -> Float[Array, "G N"]:
  """Returns (score - group mean) / (group standard deviation + epsilon).

  This is GRPO's advantage (arXiv:2402.03300, section 4.1.2). The deviation is
  that of the sample, with N - 1, as in TRL; the paper does not say which.
  """
  deviation = jnp.std(scores, axis=1, keepdims=True, ddof=1)
  return group_centred(scores) / (deviation + epsilon)


def whitened(
  values: Float[Array, "*rows"], mask: Float[Array, "*rows"]
) -> Float[Array, "*rows"]:
  """Returns values with mean 0 and variance 1 over all real tokens.

  The variance has n - 1 in its denominator, plus 1e-8 (PPO as in TRL). Padding
  becomes 0.
  """
  real = mask > 0
  count = jnp.sum(real)
  values = jnp.where(real, values, 0.0)
  mean = jnp.sum(values) / jnp.maximum(count, 1)
  gap = jnp.where(real, values - mean, 0.0)
  variance = jnp.sum(gap**2) / jnp.maximum(count - 1, 1)
  return gap * jax.lax.rsqrt(variance + 1e-8)
