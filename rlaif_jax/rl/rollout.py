# SPDX-License-Identifier: Apache-2.0
"""Rollouts: from prompts to the data of an update, [B, N, R] throughout."""

from __future__ import annotations

import functools
from typing import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.engine import decode
from rlaif_jax.engine import scoring
from rlaif_jax.ops import advantages as advantages_lib
from rlaif_jax.rl import algorithms

Metrics = Mapping[str, masked.WeightedSum]
Collect = Callable[
  [protocols.Params, protocols.Params, batches.PromptBatch, jax.Array],
  tuple[algorithms.Rollout, Metrics],
]
Reshard = Callable[[protocols.Params], protocols.Params]


def make_collect(
  policy: protocols.LanguageModel,
  value: protocols.ScalarModel | None,
  scorer: protocols.Scorer,
  *,
  config: algorithms.RLConfig,
  eos_ids: tuple[int, ...],
  reshard: Reshard = lambda params: params,
) -> Collect:
  """Returns collect(params, frozen, prompts, key) -> (Rollout, metrics).

  Policy and reference are read at the sampling temperature, so the reported KL
  is that of the distribution that is sampled and trained.

  Args:
    policy: functions of the policy, and of the reference.
    value: functions of the value network; None if the algorithm has none.
    scorer: the reward; it may run on the host.
    config: objective, algorithm and sampling.
    eos_ids: tokens that end a response.
    reshard: params -> the copy of the policy that samples, made once per
      rollout (`mesh.make_reshard`). The default samples from `params` in place.

  Returns:
    A function whose `params` are {"policy", "value"} and whose `frozen` is
    {"reference", "scorer"}.

  Raises:
    ValueError: if the sampling temperature is 0.
  """
  if config.sampling.temperature <= 0:
    raise ValueError(
      f"SamplingConfig.temperature is {config.sampling.temperature}; a policy "
      "gradient needs samples, so it must be positive (the paper uses 0.9)"
    )
  sample = make_sample(policy, config=config, eos_ids=eos_ids)
  finish = make_finish(policy, value, config=config)

  def collect(params, frozen, prompts, key):
    # 1. Sample; log-probs come with the samples.
    samples = sample(reshard(params["policy"]), prompts, key)
    # 2. Score whole responses.
    score = scorer(frozen["scorer"], prompts, samples.response, samples.mask)
    if config.unfinished_penalty:
      score -= config.unfinished_penalty * unfinished(samples, eos_ids)
    # 3. Reference log-probs, 4. old values where the algorithm needs them,
    # 5. shaped rewards, 6. advantages and value targets.
    return finish(params, frozen["reference"], prompts, samples, score)

  return collect


@functools.partial(jax.jit, static_argnames="eos_ids")
def unfinished(
  samples: decode.SampledResponses, eos_ids: tuple[int, ...]
) -> Float32[jax.Array, "B N"]:
  """Returns 1 for each response without an end token, and 0 for the others."""
  ends = jnp.isin(samples.response, jnp.asarray(eos_ids)) & (samples.mask > 0)
  return 1.0 - jnp.any(ends, axis=2)


def make_sample(
  policy: protocols.LanguageModel,
  *,
  config: algorithms.RLConfig,
  eos_ids: tuple[int, ...],
) -> Callable[..., decode.SampledResponses]:
  """Returns the jitted sample(params, prompts, key) -> Samples [B, N, R].

  `params` are the policy's. N is `config.samples_per_prompt`; each prompt is
  prefilled once.
  """

  @jax.jit
  def sample(params, prompts, key):
    return decode.generate(
      policy,
      params,
      prompts.prompt,
      prompts.prompt_valid,
      decode.row_keys(key, prompts.row, config.samples_per_prompt),
      config=config.sampling,
      eos_ids=eos_ids,
    )

  return sample


def make_finish(
  policy: protocols.LanguageModel,
  value: protocols.ScalarModel | None,
  *,
  config: algorithms.RLConfig,
) -> Callable[..., tuple[algorithms.Rollout, Metrics]]:
  """Returns the jitted finish(params, reference, prompts, samples, score).

  It completes samples and their scores [B, N] to a Rollout with metrics.
  """
  row = config.row

  @jax.jit
  def finish(params, reference, prompts, samples, score):
    texts = scoring.join_groups(prompts, samples.response, samples.mask)
    ref_log_probs = scoring.response_log_probs(
      policy, reference, texts, temperature=config.sampling.temperature
    )
    values = jnp.zeros_like(samples.mask)
    if row.needs_value and not row.baseline_at_update:
      values = algorithms.state_values(value, params["value"], texts)
    rollout = algorithms.Rollout(
      prompts=prompts,
      response=samples.response,
      mask=samples.mask,
      log_probs=samples.log_probs,
      ref_log_probs=ref_log_probs * samples.mask,
      values=values * samples.mask,
      score=score,
    )
    rewards = algorithms.shaped_rewards(rollout, config)
    advantages, targets = row.advantages(rollout, rewards, config)
    rollout = rollout.replace(advantages=advantages, targets=targets)
    return rollout, rollout_metrics(rollout)

  return finish


def rollout_metrics(rollout: algorithms.Rollout) -> Metrics:
  """Returns means of score, length and KL per response, and of log-probs."""
  mask = rollout.mask
  responses = jnp.ones(mask.shape[:2], jnp.float32)

  def kl(estimator):
    terms = estimator(rollout.log_probs, rollout.ref_log_probs)
    return jnp.sum(jnp.where(mask > 0, terms, 0.0), axis=2)

  return {
    "score": masked.weighted_sum(rollout.score, responses),
    "score_square": masked.weighted_sum(rollout.score**2, responses),
    "tokens": masked.weighted_sum(jnp.sum(mask, axis=2), responses),
    "kl": masked.weighted_sum(
      kl(advantages_lib.KL_ESTIMATORS["k1"]), responses
    ),
    "kl_k3": masked.weighted_sum(
      kl(advantages_lib.KL_ESTIMATORS["k3"]), responses
    ),
    "sampled_log_prob": masked.weighted_sum(rollout.log_probs, mask),
  }
