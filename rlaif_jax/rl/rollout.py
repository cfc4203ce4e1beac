# SPDX-License-Identifier: Apache-2.0
"""From prompts to what an update needs, in six numbered steps."""

from __future__ import annotations

from typing import Any, Callable, Mapping

import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.engine import decode
from rlaif_jax.engine import scoring
from rlaif_jax.ops import advantages as advantages_lib
from rlaif_jax.rl import algorithms

Collect = Callable[[Any, Any, batches.PromptBatch, jax.Array], Any]


def repeat_prompts(
  prompts: batches.PromptBatch, times: int
) -> batches.PromptBatch:
  """Each prompt `times` in a row; sample j of row i seeds as i * times + j."""
  repeated = jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), prompts)
  index = jnp.arange(repeated.row.shape[0]) % times
  return repeated.replace(row=repeated.row * times + index)


def make_collect(
  policy: protocols.LanguageModel,
  value: protocols.ScalarModel | None,
  scorer: protocols.Scorer,
  *,
  config: algorithms.RLConfig,
  sampling: decode.SamplingConfig,
  eos_ids: tuple[int, ...],
  move: Callable[[Any], Any] = lambda params: params,
) -> Collect:
  """Returns collect(params, frozen, prompts, key).

  `params` is {"policy", "value"}; `frozen` is {"reference", "scorer"}. The
  result is ((Rollout, advantages [B, R], targets [B, R]), metrics). Policy
  and reference are both read at the sampling temperature, so that the KL that
  is reported is the KL of the distribution that is sampled and trained. `move`
  makes the copy of the policy that samples, once a rollout (`mesh.mover`);
  without it the parameters are read where they lie, at every token.
  """
  if sampling.temperature <= 0:
    raise ValueError(
      f"SamplingConfig.temperature is {sampling.temperature}; a policy "
      "gradient needs samples, so it must be positive (the paper uses 0.9)"
    )
  how = {"config": config, "sampling": sampling}
  sample = make_sample(policy, eos_ids=eos_ids, **how)
  finish = make_finish(policy, value, **how)

  def collect(params, frozen, prompts, key):
    # 1. Sample at the training temperature; log-probs come with the samples.
    # The samples of a prompt stand together, and so share it from here on.
    drawn = sample(move(params["policy"]), prompts, key)
    # 2. Score whole responses.
    score = scorer(frozen["scorer"], prompts, drawn.response, drawn.mask)
    # 3. Reference log-probs, 4. values where the algorithm needs old ones,
    # 5. shaped rewards, 6. advantages and value targets.
    return finish(params, frozen["reference"], prompts, drawn, score)

  return collect


def make_sample(
  policy: protocols.LanguageModel,
  *,
  config: algorithms.RLConfig,
  sampling: decode.SamplingConfig,
  eos_ids: tuple[int, ...],
) -> Callable[..., decode.Samples]:
  """Returns the jitted sample(policy's params, prompts, key) of a rollout."""

  @jax.jit
  def sample(params, prompts, key):
    samples = decode.generate(
      policy,
      params,
      prompts.prompt,
      prompts.prompt_valid,
      decode.row_keys(key, prompts.row, config.samples_per_prompt),
      config=sampling,
      eos_ids=eos_ids,
    )
    return samples.reshape((-1,))

  return sample


def make_finish(
  policy: protocols.LanguageModel,
  value: protocols.ScalarModel | None,
  *,
  config: algorithms.RLConfig,
  sampling: decode.SamplingConfig,
) -> Callable[..., Any]:
  """Returns the jitted finish(params, reference, prompts, drawn, score).

  From what was drawn and its score [B] to what `make_collect` returns.
  """
  row = algorithms.ALGORITHMS[config.algorithm]

  @jax.jit
  def finish(params, reference, prompts, drawn, score):
    shape = drawn.mask.shape
    group = scoring.join_groups(prompts, drawn.response, drawn.mask)
    ref_log_probs = scoring.group_log_probs(
      policy, reference, group, temperature=sampling.temperature
    ).reshape(shape)
    values = jnp.zeros_like(drawn.mask)
    if row.needs_value and not row.baseline_at_update:
      values = algorithms.state_values(value, params["value"], group)
      values = values.reshape(shape)
    prompts = repeat_prompts(prompts, config.samples_per_prompt)
    rollout = batches.Rollout(
      prompts=prompts,
      response=drawn.response,
      mask=drawn.mask,
      log_probs=drawn.log_probs,
      ref_log_probs=ref_log_probs * drawn.mask,
      values=values * drawn.mask,
      score=score,
    )
    rewards = algorithms.shaped_rewards(rollout, config)
    advantages, targets = row.advantages(rollout, rewards, config)
    return (rollout, advantages, targets), rollout_metrics(rollout)

  return finish


def rollout_metrics(
  rollout: batches.Rollout,
) -> Mapping[str, masked.WeightedSum]:
  """Score, length and KL over responses; token statistics over real tokens."""
  mask = rollout.mask
  rows = jnp.ones(mask.shape[:1], jnp.float32)
  k1 = advantages_lib.KL_ESTIMATORS["k1"]
  k3 = advantages_lib.KL_ESTIMATORS["k3"]

  def per_response(estimator):
    terms = estimator(rollout.log_probs, rollout.ref_log_probs)
    return jnp.sum(jnp.where(mask > 0, terms, 0.0), axis=1)

  return {
    "score": masked.weighted_sum(rollout.score, rows),
    "score_square": masked.weighted_sum(rollout.score**2, rows),
    "tokens": masked.weighted_sum(jnp.sum(mask, axis=1), rows),
    "kl": masked.weighted_sum(per_response(k1), rows),
    "kl_k3": masked.weighted_sum(per_response(k3), rows),
    "sampled_log_prob": masked.weighted_sum(rollout.log_probs, mask),
  }
