# SPDX-License-Identifier: Apache-2.0
"""The table of policy-gradient algorithms, and the data of their updates.

A row of the table defines the advantage and the objective. Rollouts, the loss
(`rl.update`) and the update step are the same for all.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Callable, Literal, Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import validation
from rlaif_jax.engine import decode
from rlaif_jax.ops import advantages as advantages_lib
from rlaif_jax.rl import objective as objective_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLConfig(validation.Validated):
  """The objective and the algorithm; the defaults are the paper's.

  A row of `ALGORITHMS` has the objective of the paper that it is named after.
  Every value here that is None is the row's; another value departs from it.
  docs/guides/rl.md has them in one table.

  Attributes:
    algorithm: key of `ALGORITHMS`, or an `Algorithm` of your own.
    samples_per_prompt: responses of a prompt, N.
    beta: weight of the KL. Lee et al. maximise (1 - beta) E[r] - beta
      KL(policy || SFT) (appendix A.3).
    weight_score_by_one_minus_beta: whether the score has the weight 1 - beta.
    kl_in: "reward" subtracts beta (log pi - log ref) from each token's reward,
      so it is part of return and baseline: the exact gradient of the objective.
      "loss" keeps the score as the return and adds beta times a differentiable
      estimate to the loss.
    kl_estimator: that estimate. k2 is the gradient of the KL at the visited
      states; it ignores the effect of a token on later states. k1 has no
      gradient there, and k3 that of the reverse KL; see
      `ops.advantages.KL_ESTIMATORS`. "k2_response" has the exact gradient.
    value: returns and value network.
    ratio: clip of importance ratios, and correction for the sampler.
    epochs: passes over a rollout, of algorithms with an importance ratio.
    minibatches: updates per pass, likewise.
    loss_mean: "sequence" sums a response's terms and averages over responses;
      "token" averages over all tokens of the batch; "response" averages over a
      response's tokens, and then over responses; "constant" sums, and divides
      by responses times SamplingConfig.max_tokens.
    unfinished_penalty: subtracted from the score of a response that has no end
      token, in the unit of the score (0 in the paper).
    mask_unfinished: such responses have no part in the loss (DAPO's overlong
      filtering).
    sampling: temperature and length of rollouts (paper: 0.9).
  """

  algorithm: Annotated[str, validation.OneOf(tuple(ALGORITHMS))] | Algorithm = (
    "reinforce"
  )
  samples_per_prompt: validation.PositiveInt = 1
  beta: validation.Probability | None = None
  weight_score_by_one_minus_beta: bool | None = None
  kl_in: Literal["reward", "loss"] | None = None
  kl_estimator: objective_lib.KlEstimator | None = None
  value: objective_lib.ValueConfig = objective_lib.ValueConfig()
  ratio: objective_lib.RatioConfig = objective_lib.RatioConfig()
  epochs: validation.PositiveInt = 1
  minibatches: validation.PositiveInt = 1
  loss_mean: objective_lib.LossMean | None = None
  unfinished_penalty: validation.NonNegativeFloat = 0.0
  mask_unfinished: bool = False
  sampling: decode.SamplingConfig = decode.SamplingConfig(
    max_tokens=64, temperature=0.9
  )

  def __post_init__(self):
    super().__post_init__()
    row = self.row
    if self.samples_per_prompt < row.min_samples:
      raise ValueError(
        f"RLConfig.samples_per_prompt is {self.samples_per_prompt}; "
        f"{self.algorithm} compares samples of one prompt and needs at least "
        f"{row.min_samples}"
      )
    if not row.clips and self.epochs * self.minibatches != 1:
      raise ValueError(
        f"RLConfig: {self.algorithm} has no importance ratio, so a second "
        f"update on the same samples is off-policy; epochs is {self.epochs} "
        f"and minibatches {self.minibatches}, both must be 1"
      )
    if self.sampling.top_k or self.sampling.top_p < 1:
      raise ValueError(
        f"SamplingConfig.top_k is {self.sampling.top_k} and top_p "
        f"{self.sampling.top_p}; RL would train another distribution than the "
        "one that is sampled, and end elsewhere: use top_k = 0 and top_p = 1, "
        "and a lower SamplingConfig.temperature for fewer unlikely tokens"
      )
    self._check_options(row)

  def _check_options(self, row: Algorithm):
    """Refuses options that the algorithm would not read."""
    value, found = self.value, self.objective
    if row.baseline_at_update and (value.clip or value.whiten):
      raise ValueError(
        f"ValueConfig.clip is {value.clip} and whiten {value.whiten}; "
        f"{self.algorithm} subtracts the value of the update itself, and has "
        "no old values or advantages to clip or whiten: use algorithm='ppo', "
        "or leave them out"
      )
    ratio = self.ratio
    given = (ratio.low, ratio.high, ratio.dual, ratio.level)
    if not row.clips and any(x is not None for x in given):
      raise ValueError(
        f"RatioConfig.low, high, dual and level are {given}; "
        f"{self.algorithm} has no importance ratio; leave them out, or use an "
        f"algorithm of {[n for n, r in ALGORITHMS.items() if r.clips]}"
      )
    if found.kl_estimator == "k2_response" and found.loss_mean != "sequence":
      raise ValueError(
        f"RLConfig.kl_estimator is 'k2_response', one term per response, and "
        f"loss_mean is {found.loss_mean!r}, which would weigh it by length; "
        "use loss_mean = 'sequence'"
      )

  @property
  def objective(self) -> objective_lib.Objective:
    """The algorithm's objective with the values that are set here."""
    return objective_lib.fill(self.row.objective, self)

  @property
  def row(self) -> Algorithm:
    """The algorithm."""
    if isinstance(self.algorithm, str):
      return ALGORITHMS[self.algorithm]
    return self.algorithm


@flax.struct.dataclass
class Rollout:
  """Sampled responses with the data of a policy-gradient update.

  Log-probs are under softmax(logits / temperature), for the policy that samples
  and the reference; with a correction, they are those of the policy that is
  updated, and not of its sampling copy. `values[..., t]` is the value of the
  state before token t. Advantages and targets (of the value network) are filled
  in last.
  """

  prompts: batches.PromptBatch
  response: Int32[batches.Array, "B N R"]
  # 1 up to the end token, inclusive.
  mask: Float32[batches.Array, "B N R"]
  log_probs: Float32[batches.Array, "B N R"]
  ref_log_probs: Float32[batches.Array, "B N R"]
  values: Float32[batches.Array, "B N R"]
  score: Float32[batches.Array, "B N"]
  advantages: Float32[batches.Array, "B N R"] | None = None
  targets: Float32[batches.Array, "B N R"] | None = None
  # Weights of the loss's tokens, if they are not `mask`: unfinished responses.
  loss_mask: Float32[batches.Array, "B N R"] | None = None
  # Weights of the policy's terms, from the ratio of the policy to its sampler.
  correction: Float32[batches.Array, "B N R"] | None = None
  # log pi - log sampler, where a copy of the policy samples.
  mismatch: Float32[batches.Array, "B N R"] | None = None
  # The parts that `score` is the sum of, if there are several.
  parts: protocols.Scores | None = None

  @property
  def texts(self) -> batches.GroupBatch:
    """The prompts with their responses."""
    return batches.GroupBatch(
      prompt=self.prompts.prompt,
      prompt_valid=self.prompts.prompt_valid,
      response=self.response,
      response_valid=self.mask > 0,
    )


Advantages = Callable[
  [Rollout, Float[Array, "B N R"], RLConfig],
  tuple[Float[Array, "B N R"], Float[Array, "B N R"]],
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
  """One row of the table.

  Attributes:
    advantages: (rollout, shaped rewards [B, N, R], config) -> (advantages,
      value targets), both [B, N, R], before the update.
    needs_value: trains a value network on the targets.
    baseline_at_update: the advantage is target - stop_gradient(V), where V is
      the forward pass that also trains the value network.
    clips: uses the importance ratio and its clip.
    min_samples: smallest number of samples per prompt.
    objective: of the paper; `RLConfig` may depart from it.
    term: (log_probs, old log_probs, advantages, config) -> the loss of each
      token, all [B, N, R]. None: PPO's clipped term if `clips`, or else
      REINFORCE's.
  """

  advantages: Advantages
  needs_value: bool = False
  baseline_at_update: bool = False
  clips: bool = False
  min_samples: int = 1
  objective: objective_lib.Objective = objective_lib.Objective()
  term: Callable[..., Float[Array, "B N R"]] | None = None


def _per_response(
  function: Callable[..., jax.Array],
) -> Callable[..., jax.Array]:
  """Maps a function of one trajectory [R] over [B, N, R]."""
  return jax.vmap(jax.vmap(function))


def _returns(rollout, rewards, config):
  gamma = config.objective.value.gamma
  returns = _per_response(
    lambda r, m: advantages_lib.returns(r, m, gamma=gamma)
  )(rewards, rollout.mask)
  return returns, returns


def _gae(rollout, rewards, config):
  value = config.objective.value
  advantages = _per_response(
    lambda r, v, m: advantages_lib.gae(
      r, v, m, gamma=value.gamma, lam=value.gae_lambda
    )
  )(rewards, rollout.values, rollout.mask)
  targets = advantages + rollout.values
  if value.whiten:
    advantages = advantages_lib.whitened(advantages, rollout.mask)
  return advantages, targets


def _grouped(baseline):
  """Sequence-level advantages relative to the other samples of the prompt."""

  def advantages(rollout, rewards, config):
    del config
    totals = jnp.sum(jnp.where(rollout.mask > 0, rewards, 0.0), axis=2)
    centred = baseline(totals)[..., None] * rollout.mask
    return centred, centred

  return advantages


def _group_algorithm(
  baseline: Callable[[jax.Array], jax.Array], **options: object
) -> Algorithm:
  """Returns a clipped algorithm that compares samples, as GRPO does.

  Its KL, if any, is k3 in the loss.
  """
  return Algorithm(
    advantages=_grouped(baseline),
    clips=True,
    min_samples=2,
    objective=objective_lib.Objective(
      **{"kl_in": "loss", "kl_estimator": "k3", "beta": 0.0, **options}
    ),
  )


def _clip(low: float, high: float, level: str) -> objective_lib.RatioConfig:
  return objective_lib.RatioConfig(low=low, high=high, dual=0.0, level=level)


ALGORITHMS: Mapping[str, Algorithm] = {
  # Lee et al., arXiv:2309.00267: L_PG with a learned baseline (appendix F).
  "reinforce": Algorithm(
    advantages=_returns,
    needs_value=True,
    baseline_at_update=True,
    objective=objective_lib.Objective(weight_score_by_one_minus_beta=True),
  ),
  # arXiv:1707.06347 with GAE, arXiv:1506.02438; the KL in the reward as in
  # arXiv:1909.08593, the value clip and whitening as in the code of both. The
  # value's loss has the weight 0.1 and a factor 1/2.
  "ppo": Algorithm(
    advantages=_gae,
    needs_value=True,
    clips=True,
    objective=objective_lib.Objective(
      loss_mean="token",
      value=objective_lib.ValueConfig(
        gamma=1.0, gae_lambda=0.95, clip=0.2, loss_weight=0.05, whiten=True
      ),
    ),
  ),
  # arXiv:2402.14740.
  "rloo": Algorithm(
    advantages=_grouped(advantages_lib.leave_one_out),
    min_samples=2,
  ),
  # arXiv:2402.03300, eq. 3 and section 4.2 (beta 0.04).
  "grpo": _group_algorithm(
    advantages_lib.group_normalised, loss_mean="response", beta=0.04
  ),
  # arXiv:2503.20783, section 3.2.
  "dr_grpo": _group_algorithm(
    advantages_lib.group_centred, loss_mean="constant"
  ),
  # arXiv:2503.14476, eq. 8. The mean is over all tokens of the batch, as in its
  # code; the formula has it within a prompt's group.
  "dapo": _group_algorithm(
    advantages_lib.group_normalised,
    loss_mean="token",
    ratio=_clip(0.2, 0.28, "token"),
  ),
  # arXiv:2507.18071, eq. 5 and section 5.1.
  "gspo": _group_algorithm(
    advantages_lib.group_normalised,
    loss_mean="response",
    ratio=_clip(3e-4, 4e-4, "sequence"),
  ),
}


def shaped_rewards(rollout: Rollout, config: RLConfig) -> Float[Array, "B N R"]:
  """Returns token rewards [B, N, R].

  The score is the reward of the last real token; the KL penalty is subtracted
  from every token's reward if the objective has it there.
  """
  objective = config.objective

  def shape(score, log_probs, ref_log_probs, mask):
    return advantages_lib.shaped_rewards(
      score,
      log_probs,
      ref_log_probs,
      mask,
      beta=objective.beta,
      kl_in_reward=objective.kl_in == "reward",
      weight_score_by_one_minus_beta=objective.weight_score_by_one_minus_beta,
    )

  return _per_response(shape)(
    rollout.score, rollout.log_probs, rollout.ref_log_probs, rollout.mask
  )


def state_values(
  value: protocols.ScalarModel,
  params: protocols.Params,
  texts: batches.GroupBatch,
) -> Float[Array, "B N R"]:
  """Returns the values [B, N, R] of the states before each response token."""
  return value.states(params, texts)[..., :-1]
