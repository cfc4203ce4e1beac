# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations
import jax, jax.numpy as jnp
KL_ESTIMATORS = {"k1": lambda p, q: p - q, "k2": lambda p, q: 0.5*(p-q)**2, "k3": lambda p, q: jnp.exp(q-p)-1-(q-p)}
def shaped_rewards(score, log_probs, ref_log_probs, mask, *, beta, kl_in_reward, weight_score_by_one_minus_beta=True):
  R = mask.shape[0]
  last = jnp.max(jnp.where(mask > 0, jnp.arange(R), -1))
  w = 1 - beta if weight_score_by_one_minus_beta else 1.0
  r = jnp.where(jnp.arange(R) == last, w*score, 0.0)
  if kl_in_reward: r = r - beta*jnp.where(mask > 0, log_probs-ref_log_probs, 0.0)
  return r
def returns(rewards, mask, *, gamma):
  def f(c, x):
    r, m = x
    z = jnp.where(m > 0, r + gamma*c, 0.0)
    return z, z
  return jax.lax.scan(f, 0.0, (rewards, mask), reverse=True)[1]
def leave_one_out(scores):
  n = scores.shape[-1]
  return (scores - scores.mean(-1, keepdims=True))*n/(n-1)
def group_normalised(scores, epsilon=1e-4):
  return (scores - scores.mean(-1, keepdims=True))/(scores.std(-1, keepdims=True)+epsilon)
def gae(*a, **k): raise NotImplementedError
