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
from rlaif_jax.ops import policy_gradient
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
  reshard: Reshard | None = None,
) -> Collect:
  """Returns collect(params, frozen, prompts, key) -> (Rollout, metrics).

  Policy and reference are read at the sampling temperature, so the reported KL
  is that of the distribution that is sampled and trained. Where a copy of the
  policy samples, the policy reads the samples too, and metrics tell how far the
  copy is from it.

  Args:
    policy: functions of the policy, and of the reference.
    value: functions of the value network; None if the algorithm has none.
    scorer: the reward; it may run on the host.
    config: objective, algorithm and sampling.
    eos_ids: tokens that end a response.
    reshard: params -> the copy of the policy that samples, made once per
      rollout (`mesh.make_reshard`). None samples from `params` in place.

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
  finish = make_finish(
    policy,
    value,
    config=config,
    eos_ids=eos_ids,
    rereads=rereads(config, reshard is not None),
  )

  def collect(params, frozen, prompts, key):
    # 1. Sample; log-probs come with the samples.
    sampler = params["policy"] if reshard is None else reshard(params["policy"])
    samples = sample(sampler, prompts, key)
    # 2. Score whole responses.
    score = scorer(frozen["scorer"], prompts, samples.response, samples.mask)
    parts = score if isinstance(score, protocols.Scores) else None
    if parts is not None:
      score = parts.total
    if config.unfinished_penalty:
      score -= config.unfinished_penalty * unfinished(samples, eos_ids)
    # 3. Reference log-probs, 4. old values where the algorithm needs them,
    # 5. shaped rewards, 6. advantages and value targets.
    rollout = finish(params, frozen["reference"], prompts, samples, score)
    rollout = rollout.replace(parts=parts)
    return rollout, rollout_metrics(rollout)

  return collect


def part_metrics(
  scores: protocols.Scores, mask: Float32[jax.Array, "B N R"]
) -> Metrics:
  """Returns numbers of each part of a reward, over the responses.

  `reward/NAME` is the mean of the raw values, `.../std` their deviation,
  `.../length` their correlation with the number of tokens (0 if one of both is
  constant) and `.../missing` the share of missing values.
  """
  one, metrics = jnp.ones((), jnp.float32), {}
  tokens = jnp.sum(mask, axis=2)
  for name, values in scores.parts.items():
    present = scores.present[name].astype(jnp.float32)

    def mean(x, present=present):
      return masked.masked_mean(x, present)

    gap, longer = values - mean(values), tokens - mean(tokens)
    spread = jnp.sqrt(mean(gap**2))
    both = spread * jnp.sqrt(mean(longer**2))
    length = jnp.where(both > 1e-9, mean(gap * longer) / (both + 1e-12), 0.0)
    metrics |= {
      f"reward/{name}": masked.weighted_sum(values, present),
      f"reward/{name}/std": masked.WeightedSum(spread, one),
      f"reward/{name}/length": masked.WeightedSum(length, one),
      f"reward/{name}/missing": masked.WeightedSum(1 - jnp.mean(present), one),
    }
  return metrics


@functools.partial(jax.jit, static_argnames="eos_ids")
def unfinished(
  samples: decode.SampledResponses, eos_ids: tuple[int, ...]
) -> Float32[jax.Array, "B N"]:
  """Returns 1 for each response without an end token, and 0 for the others."""
  ends = jnp.isin(samples.response, jnp.asarray(eos_ids)) & (samples.mask > 0)
  return 1.0 - jnp.any(ends, axis=2)


def rereads(config: algorithms.RLConfig, is_copy: bool) -> bool:
  """Returns whether the policy reads the samples before the update.

  Args:
    config: a correction for the sampler needs it.
    is_copy: whether a copy of the policy samples.
  """
  return is_copy or config.ratio.correction != "none"


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
  eos_ids: tuple[int, ...],
  rereads: bool = False,
) -> Callable[..., algorithms.Rollout]:
  """Returns the jitted finish(params, reference, prompts, samples, score).

  It completes samples and their scores [B, N] to a Rollout. The policy in
  `params` is read only if `rereads` is set; see `rereads`.
  """
  row, ratio = config.row, config.ratio
  corrects = ratio.correction != "none"
  read = functools.partial(
    scoring.response_log_probs, policy, temperature=config.sampling.temperature
  )

  @jax.jit
  def finish(params, reference, prompts, samples, score):
    texts = scoring.join_groups(prompts, samples.response, samples.mask)
    values = jnp.zeros_like(samples.mask)
    if row.needs_value and not row.baseline_at_update:
      values = algorithms.state_values(value, params["value"], texts)
    own, mismatch, correction = samples.log_probs, None, None
    if rereads:
      reread = read(params["policy"], texts) * samples.mask
      mismatch = reread - samples.log_probs
      own = reread if corrects else own
    if corrects:
      correction = policy_gradient.sampler_weights(
        mismatch,
        samples.mask,
        method=ratio.correction,
        level=ratio.correction_level,
        limit=ratio.limit,
      )
    loss_mask = None
    if config.mask_unfinished:
      loss_mask = samples.mask * (1 - unfinished(samples, eos_ids)[..., None])
    rollout = algorithms.Rollout(
      prompts=prompts,
      response=samples.response,
      mask=samples.mask,
      log_probs=own,
      ref_log_probs=read(reference, texts) * samples.mask,
      values=values * samples.mask,
      score=score,
      loss_mask=loss_mask,
      correction=correction,
      mismatch=mismatch,
    )
    rewards = algorithms.shaped_rewards(rollout, config)
    advantages, targets = row.advantages(rollout, rewards, config)
    return rollout.replace(advantages=advantages, targets=targets)

  return finish


def mismatch_metrics(
  log_ratio: Float32[jax.Array, "B N R"], mask: Float32[jax.Array, "B N R"]
) -> Metrics:
  """Returns how far the sampler is from the policy, at the sampled tokens.

  `mismatch` is the mean of |log pi - log sampler|, `mismatch_largest` its
  largest value, `mismatch_share` the share of tokens whose ratio is outside of
  [0.9, 1.1], and `mismatch_k3` an estimate of KL(sampler || policy) per token.

  Args:
    log_ratio: log pi - log sampler.
    mask: 1 for real tokens.
  """
  gap = jnp.where(mask > 0, log_ratio, 0.0)
  ratio = jnp.exp(gap)
  outside = (ratio < 0.9) | (ratio > 1.1)
  k3 = advantages_lib.kl_k3(jnp.zeros_like(gap), gap)
  return {
    "mismatch": masked.weighted_sum(jnp.abs(gap), mask),
    "mismatch_largest": masked.WeightedSum(
      jnp.max(jnp.abs(gap)), jnp.ones((), jnp.float32)
    ),
    "mismatch_share": masked.weighted_sum(outside, mask),
    "mismatch_k3": masked.weighted_sum(k3, mask),
  }


@jax.jit
def rollout_metrics(rollout: algorithms.Rollout) -> Metrics:
  """Returns means of score, length and KL per response, and of log-probs.

  A reward of parts adds `part_metrics`, and a sampling copy `mismatch_metrics`.
  """
  mask = rollout.mask
  responses = jnp.ones(mask.shape[:2], jnp.float32)

  def kl(estimator):
    terms = estimator(rollout.log_probs, rollout.ref_log_probs)
    return jnp.sum(jnp.where(mask > 0, terms, 0.0), axis=2)

  metrics = {}
  if rollout.parts is not None:
    metrics |= part_metrics(rollout.parts, mask)
  if rollout.mismatch is not None:
    metrics |= mismatch_metrics(rollout.mismatch, mask)
  return {
    **metrics,
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
