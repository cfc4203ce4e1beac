# SPDX-License-Identifier: Apache-2.0
"""Rewards for RL: models, labelers and functions as Scorers with parameters."""

from __future__ import annotations

import dataclasses
from typing import Callable, Literal, NamedTuple, Sequence

import jax
from jaxtyping import Array, Float, Int

from rlaif_jax.api import text_rewards
from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import user_functions
from rlaif_jax.labeling import llm_reward as llm_reward_lib
from rlaif_jax.labeling import option_probs
from rlaif_jax.labeling import pointwise_judge
from rlaif_jax.model_io import pretrained
from rlaif_jax.reward import scorers
from rlaif_jax.text import prompts as prompts_lib

# (prompts, response, mask) -> one number per response; jitted
TokenReward = Callable[
  [batches.PromptBatch, Int[Array, "B N R"], Float[Array, "B N R"]],
  Float[Array, "B N"],
]


class Reward(NamedTuple):
  """A Scorer and its parameters.

  Attributes:
    score: the reward.
    params: its parameters.
    with_rows: (examples) -> the parameters for other rows; None if the reward
      reads no rows.
  """

  score: protocols.Scorer
  params: protocols.Params
  with_rows: Callable[..., protocols.Params] | None = None


@dataclasses.dataclass(frozen=True)
class LLMReward:
  """A labeler whose opinion is the reward; see `llm_reward`.

  Attributes:
    labeler: language model that scores the responses.
    template: pointwise template of its score of 1 to 10, or yes/no template,
      whose probability p of the better answer gives 2 p - 1; "": `likelihood`.
    likelihood: "pmi" or "mean_pmi" of `labeling.likelihood_judge`; "":
      `template`.
    between: text between context and response, for likelihoods.
  """

  labeler: pretrained.PretrainedModel
  template: str
  likelihood: str = ""
  between: str = ""

  def for_policy(self, policy: pretrained.PretrainedModel) -> Reward:
    """Returns the reward of a policy's responses, in [-1, 1].

    It is computed on the device if labeler and policy have the same
    vocabulary. Otherwise each rollout is decoded to text on the host.

    Raises:
      ValueError: if the labeler cannot read the policy's longest context and
        response in its prompt.
    """
    labeler = self.labeler
    if self.likelihood:
      if labeler.tokenizer.fingerprint != policy.tokenizer.fingerprint:
        raise ValueError(
          f"the labeler {labeler.name} has another vocabulary than the policy "
          f"{policy.name}; a likelihood is one of the policy's tokens. Use a "
          "labeler of the policy's family, or a rating template"
        )
      name = self.likelihood
      scorer = llm_reward_lib.likelihood_scorer(
        labeler.functions,
        labeler.tokenizer,
        between=self.between,
        chat=labeler.chat,
        per_token=self.likelihood == "mean_pmi",
      )
    elif labeler.tokenizer.fingerprint != policy.tokenizer.fingerprint:
      return Reward(
        text_rewards.make_scorer(self._score_texts, policy, name=labeler.name),
        None,
      )
    else:
      template = prompts_lib.load(self.template)
      name, is_yesno = f"template {template.name}", template.kind == "yesno"
      parts = template.yesno_parts() if is_yesno else template.pointwise_parts()
      scorer = llm_reward_lib.labeler_scorer(
        labeler.functions,
        labeler.tokenizer,
        parts=parts,
        options=template.options,
        chat=labeler.chat,
        chosen=(template.polarity == "flip") * 1 if is_yesno else None,
      )
    sequence = policy.sequence
    texts = sequence.max_context + sequence.max_response
    needed, limit = scorer.fixed_tokens + texts, labeler.functions.max_length
    if needed > limit:
      raise ValueError(
        f"the labeler {labeler.name} reads {limit} tokens, and its prompt with "
        f"{name} takes up to {needed}: "
        f"{scorer.fixed_tokens}, and {sequence.max_context} of the context and "
        f"{sequence.max_response} of the response. Lower SequenceConfig."
        "max_context or max_response of the policy, choose a shorter template, "
        "or use a labeler with a larger max_length"
      )
    return Reward(jax.jit(scorer.score), scorer.prepare(labeler.params))

  def _score_texts(
    self, contexts: Sequence[str], responses: Sequence[str]
  ) -> list[float]:
    config = pointwise_judge.PointwiseJudgeConfig(
      template=self.template,
      # Room for the longest score after the prompt.
      max_context_tokens=self.labeler.config.max_length - 8,
    )
    examples = [
      records.Example(id=str(i), context=context, response=response)
      for i, (context, response) in enumerate(
        zip(contexts, responses, strict=True)
      )
    ]
    ratings, _ = pointwise_judge.judge_responses(
      examples,
      self.labeler.backend(),
      config,
      tokenizer=self.labeler.tokenizer,
    )
    if config.load_template().kind == "yesno":
      return [2.0 * rating.score - 1.0 for rating in ratings]
    return [option_probs.to_reward(rating.score) for rating in ratings]


def llm_reward(
  labeler: pretrained.PretrainedModel, template: str = "summary_rating"
) -> LLMReward:
  """Returns the reward of direct RLAIF (paper, section 2.2.2).

  Args:
    labeler: language model that scores the responses.
    template: name or .toml path of a pointwise or yes/no template.
  """
  return LLMReward(labeler, template)


def likelihood_reward(
  labeler: pretrained.PretrainedModel,
  score: Literal["pmi", "mean_pmi"] = "pmi",
  between: str = "\n\nSummary:\n",
) -> LLMReward:
  """Returns how much likelier the context makes a response, in nats.

  For direct RLAIF with labelers too small to be asked; not in the paper.

  Args:
    labeler: language model with the policy's vocabulary.
    score: "pmi", log P(y | x) - log P(y), or "mean_pmi", that per token, which
      a policy soon exploits by naming its subject alone.
    between: text between context and response; ends with a newline.
  """
  return LLMReward(labeler, "", score, between)


def token_reward(function: TokenReward) -> Reward:
  """Returns a jitted function of tokens as a reward."""

  def score(params, prompts, response, mask):
    del params
    return function(prompts, response, mask)

  return Reward(score, None)


# What `as_reward` takes.
AnyReward = (
  Reward
  | LLMReward
  | pretrained.PretrainedModel
  | text_rewards.TextReward
  | TokenReward
)


def is_jitted(function: object) -> bool:
  """Returns whether a function, or what a partial calls, is jitted."""
  return isinstance(user_functions.unbound(function), jax.stages.Wrapped)


def as_reward(
  reward: AnyReward,
  policy: pretrained.PretrainedModel,
  *,
  rows: Sequence[records.Example] | None = None,
  name: str = "reward",
  allow_missing: bool = False,
) -> Reward:
  """Returns anything that can be a reward as a Scorer with its parameters.

  Args:
    reward: a `Reward`, `llm_reward(...)`, a scalar reward model, a jitted
      function of tokens (prompts, response, mask) -> [B, N], or any other
      function of texts (contexts, responses) or (contexts, responses, rows) ->
      one number each.
    policy: the policy that is trained.
    rows: examples by `PromptBatch.row`, for a function that reads them.
    name: of the reward, in errors.
    allow_missing: see `text_rewards.make_scorer`.

  Raises:
    ValueError: if a reward model has another vocabulary or sequence than the
      policy, or is not scalar; or a function reads rows and there are none.
  """
  if isinstance(reward, Reward):
    return reward
  if isinstance(reward, LLMReward):
    return reward.for_policy(policy)
  if isinstance(reward, pretrained.PretrainedModel):
    if reward.kind != "scalar":
      raise ValueError(
        f"{reward.name} is a {reward.kind} model; a reward is a scalar model "
        "(fit_reward_model), or llm_reward(model) for a language model"
      )
    pretrained.check_same_tokens(reward, policy)
    score = jax.jit(scorers.reward_scorer(reward.functions))
    return Reward(score, reward.params)
  if is_jitted(reward):
    return token_reward(reward)
  if not callable(reward):
    raise ValueError(
      f"reward {name!r} is {reward!r}; give a reward model, llm_reward(...), a "
      "function, or a list of RewardPart"
    )
  if rows is None and text_rewards.reads_rows(reward):
    raise ValueError(
      f"reward {name!r} is a function of (contexts, responses, rows), and no "
      "rows are given: use reward_parts.as_reward(reward, policy, "
      "rows=examples), or a function of (contexts, responses)"
    )
  scorer = text_rewards.make_scorer(
    reward, policy, name=name, allow_missing=allow_missing
  )
  return Reward(scorer, rows, lambda other: other)
