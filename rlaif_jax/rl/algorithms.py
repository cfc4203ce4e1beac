# SPDX-License-Identifier: Apache-2.0
"""The table of policy-gradient algorithms, and the loss that they share.

A row of the table defines the advantage and the per-token term. Rollouts, KL
and the update step are the same for all.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Callable, Literal, Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.core import validation
from rlaif_jax.engine import decode
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.ops import advantages as advantages_lib
from rlaif_jax.ops import policy_gradient


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLConfig(validation.Validated):
  """The objective and the algorithm; the defaults are the paper's.

  The paper maximises (1 - beta) E[r] - beta KL(policy || SFT) (appendix A.3)
  and adds the KL to the policy-gradient loss, which leaves two readings.
  `kl_in="reward"` subtracts beta (log pi - log ref) from each token's reward,
  so it is part of return and baseline. This is the exact gradient of the
  objective. `kl_in="loss"` keeps the score as the return and adds beta times
  a differentiable per-token estimate (`kl_estimator`) to the loss. With k2, it
  is the gradient of the KL at the visited states; it ignores the effect of a
  token on later states. k1 has no gradient there, and k3 that of the reverse
  KL; see `ops.advantages.KL_ESTIMATORS`.

  `loss_mean` "sequence" sums a response's terms and averages over responses
  (the paper's formula); "token" averages over all tokens.
  `unfinished_penalty` is subtracted from the score of a response that has no
  end token, in the unit of the score (0 in the paper). `gae_lambda`,
  `clip`, `epochs` and `minibatches` are read by PPO and GRPO alone.
  `sampling` sets temperature and length of rollouts (paper: 0.9).
  `algorithm` is a row of the table ALGORITHMS, or an `Algorithm` of your own.
  """

  algorithm: Annotated[str, validation.OneOf(tuple(ALGORITHMS))] | Algorithm = (
    "reinforce"
  )
  samples_per_prompt: validation.PositiveInt = 1
  beta: validation.Probability = 0.05
  weight_score_by_one_minus_beta: bool = True
  kl_in: Literal["reward", "loss"] = "reward"
  kl_estimator: Annotated[
    str, validation.OneOf(advantages_lib.KL_ESTIMATORS)
  ] = "k2"
  gamma: validation.Probability = 1.0
  gae_lambda: validation.Probability = 0.95
  clip: validation.PositiveFloat = 0.2
  epochs: validation.PositiveInt = 1
  minibatches: validation.PositiveInt = 1
  loss_mean: Literal["sequence", "token"] = "sequence"
  unfinished_penalty: validation.NonNegativeFloat = 0.0
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

  @property
  def row(self) -> Algorithm:
    """The algorithm."""
    if isinstance(self.algorithm, str):
      return ALGORITHMS[self.algorithm]
    return self.algorithm


@flax.struct.dataclass
class Rollout:
  """Sampled responses with the data of a policy-gradient update.

  Log-probs are under the sampling distribution, softmax(logits / temperature),
  for the policy and the reference. `values[..., t]` is the value of the state
  before token t. Advantages and targets (of the value network) are filled in
  last.
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
    term: (log_probs, old log_probs, advantages, config) -> the loss of each
      token, all [B, N, R]. None: PPO's clipped term if `clips`, or else
      REINFORCE's.
  """

  advantages: Advantages
  needs_value: bool = False
  baseline_at_update: bool = False
  clips: bool = False
  min_samples: int = 1
  term: Callable[..., Float[Array, "B N R"]] | None = None


def _per_response(
  function: Callable[..., jax.Array],
) -> Callable[..., jax.Array]:
  """Maps a function of one trajectory [R] over [B, N, R]."""
  return jax.vmap(jax.vmap(function))


def _returns(rollout, rewards, config):
  returns = _per_response(
    lambda r, m: advantages_lib.returns(r, m, gamma=config.gamma)
  )(rewards, rollout.mask)
  return returns, returns


def _gae(rollout, rewards, config):
  advantages = _per_response(
    lambda r, v, m: advantages_lib.gae(
      r, v, m, gamma=config.gamma, lam=config.gae_lambda
    )
  )(rewards, rollout.values, rollout.mask)
  return advantages, advantages + rollout.values


def _grouped(baseline):
  """Sequence-level advantages relative to the other samples of the prompt."""

  def advantages(rollout, rewards, config):
    del config
    totals = jnp.sum(jnp.where(rollout.mask > 0, rewards, 0.0), axis=2)
    centred = baseline(totals)[..., None] * rollout.mask
    return centred, centred

  return advantages


ALGORITHMS: Mapping[str, Algorithm] = {
  # The paper's: L_PG with a learned baseline (appendix F).
  "reinforce": Algorithm(
    advantages=_returns,
    needs_value=True,
    baseline_at_update=True,
    clips=False,
    min_samples=1,
  ),
  # arXiv:1707.06347 with GAE, arXiv:1506.02438.
  "ppo": Algorithm(
    advantages=_gae,
    needs_value=True,
    baseline_at_update=False,
    clips=True,
    min_samples=1,
  ),
  # arXiv:2402.14740.
  "rloo": Algorithm(
    advantages=_grouped(advantages_lib.leave_one_out),
    needs_value=False,
    baseline_at_update=False,
    clips=False,
    min_samples=2,
  ),
  # arXiv:2402.03300.
  "grpo": Algorithm(
    advantages=_grouped(advantages_lib.group_normalised),
    needs_value=False,
    baseline_at_update=False,
    clips=True,
    min_samples=2,
  ),
}


def shaped_rewards(rollout: Rollout, config: RLConfig) -> Float[Array, "B N R"]:
  """Returns token rewards [B, N, R].

  The score is the reward of the last real token; the KL penalty is subtracted
  from every token's reward if `config.kl_in` is "reward".
  """

  def shape(score, log_probs, ref_log_probs, mask):
    return advantages_lib.shaped_rewards(
      score,
      log_probs,
      ref_log_probs,
      mask,
      beta=config.beta,
      kl_in_reward=config.kl_in == "reward",
      weight_score_by_one_minus_beta=config.weight_score_by_one_minus_beta,
    )

  return _per_response(shape)(
    rollout.score, rollout.log_probs, rollout.ref_log_probs, rollout.mask
  )


def make_loss(
  policy: protocols.LanguageModel,
  value: protocols.ScalarModel | None,
  config: RLConfig,
) -> protocols.LossFn:
  """Returns the LossFn over a Rollout; params are {"policy", "value"}.

  Policy and value network share no parameters, so the sum of their losses
  trains each as if alone. The paper's value loss is (Z - V)^2, summed.

  Args:
    policy: functions of the policy.
    value: functions of the value network; None if the algorithm has none.
    config: objective and algorithm.
  """
  row = config.row
  estimator = advantages_lib.KL_ESTIMATORS[config.kl_estimator]

  def loss(params: protocols.Params, rollout: Rollout, key: jax.Array):
    del key  # The samples are in the rollout.
    mask, texts = rollout.mask, rollout.texts
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
      values = state_values(value, params["value"], texts)
      value_terms = policy_gradient.value_loss(values, targets)
      per_token += value_terms
      metrics["value_loss"] = masked.weighted_sum(value_terms, mask)
      metrics["target_square"] = masked.weighted_sum(targets**2, mask)
      if row.baseline_at_update:
        advantages = targets - jax.lax.stop_gradient(values)
    if row.term is not None:
      per_token += row.term(log_probs, old_log_probs, advantages, config)
    elif row.clips:
      per_token += policy_gradient.ppo_clip(
        log_probs, old_log_probs, advantages, clip=config.clip
      )
      metrics["clip_fraction"] = masked.weighted_sum(
        policy_gradient.clip_fraction(
          log_probs, old_log_probs, clip=config.clip
        ),
        mask,
      )
    else:
      per_token += policy_gradient.reinforce(log_probs, advantages)
    if config.kl_in == "loss":
      per_token += config.beta * estimator(log_probs, ref_log_probs)
    metrics["advantage_square"] = masked.weighted_sum(advantages**2, mask)
    return _reduce(per_token, mask, config), metrics

  return loss


def make_update(
  policy: protocols.LanguageModel,
  value: protocols.ScalarModel | None,
  config: RLConfig,
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


def state_values(
  value: protocols.ScalarModel,
  params: protocols.Params,
  texts: batches.GroupBatch,
) -> Float[Array, "B N R"]:
  """Returns the values [B, N, R] of the states before each response token."""
  return value.states(params, texts)[..., :-1]


def _reduce(
  per_token: jax.Array, mask: jax.Array, config: RLConfig
) -> masked.WeightedSum:
  total = masked.weighted_sum(per_token, mask)
  if config.loss_mean == "token":
    return total
  responses = jnp.asarray(mask.shape[0] * mask.shape[1], jnp.float32)
  return masked.WeightedSum(total.total, responses)
