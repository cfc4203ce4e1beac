# SPDX-License-Identifier: Apache-2.0
"""Rewards for RL: models, labelers and functions as Scorers with parameters."""

from __future__ import annotations

import dataclasses
from typing import Callable, Literal, NamedTuple, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import user_functions
from rlaif_jax.engine import decode
from rlaif_jax.engine import processes
from rlaif_jax.labeling import llm_reward as llm_reward_lib
from rlaif_jax.labeling import option_probs
from rlaif_jax.labeling import pointwise_judge
from rlaif_jax.model_io import pretrained
from rlaif_jax.reward import scorers
from rlaif_jax.text import prompts as prompts_lib

# (contexts, responses) -> one number per response
TextReward = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
# (prompts, response, mask) -> one number per response; jitted
TokenReward = Callable[
  [batches.PromptBatch, Int[Array, "B N R"], Float[Array, "B N R"]],
  Float[Array, "B N"],
]


class Reward(NamedTuple):
  """A Scorer and its parameters."""

  score: protocols.Scorer
  params: protocols.Params


@dataclasses.dataclass(frozen=True)
class LLMReward:
  """A labeler whose opinion is the reward; see `llm_reward`.

  Attributes:
    labeler: language model that scores the responses.
    template: pointwise template of its score of 1 to 10; "": `likelihood`.
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
      return text_reward(self._score_texts, policy)
    else:
      template = prompts_lib.load(self.template)
      name = f"template {template.name}"
      scorer = llm_reward_lib.labeler_scorer(
        labeler.functions,
        labeler.tokenizer,
        parts=template.pointwise_parts(),
        options=template.options,
        chat=labeler.chat,
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
    return [option_probs.to_reward(rating.score) for rating in ratings]


def llm_reward(
  labeler: pretrained.PretrainedModel, template: str = "summary_rating"
) -> LLMReward:
  """Returns the reward of direct RLAIF (paper, section 2.2.2).

  Args:
    labeler: language model that scores the responses.
    template: name or .toml path of a pointwise template.
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


def text_reward(
  function: TextReward, policy: pretrained.PretrainedModel
) -> Reward:
  """Returns a function of texts as the reward of a policy's responses.

  It runs on the host, once per rollout, with B N contexts and responses.
  """

  def score(
    params: protocols.Params,
    prompts: batches.PromptBatch,
    response: Int[Array, "B N R"],
    mask: Float[Array, "B N R"],
  ) -> Float[Array, "B N"]:
    del params
    shape = response.shape[:2]
    context, valid, response, mask = processes.to_host(
      (prompts.context, prompts.context_valid, response, mask)
    )
    texts = [
      policy.tokenizer.decode(row[keep].tolist())
      for row, keep in zip(context, valid, strict=True)
    ]
    contexts = [text for text in texts for _ in range(shape[1])]
    samples = decode.SampledResponses(
      response=response, mask=mask, log_probs=None
    )
    responses = [text for row in policy.decode(samples) for text in row]
    values = np.asarray(function(contexts, responses), np.float32)
    if values.shape != (len(responses),):
      raise ValueError(
        f"the reward returned shape {values.shape} for {len(responses)} "
        f"responses; it must return {len(responses)} numbers"
      )
    return jnp.asarray(values.reshape(shape))

  return Reward(score, None)


def token_reward(function: TokenReward) -> Reward:
  """Returns a jitted function of tokens as a reward."""

  def score(params, prompts, response, mask):
    del params
    return function(prompts, response, mask)

  return Reward(score, None)


# What `as_reward` takes.
AnyReward = (
  Reward | LLMReward | pretrained.PretrainedModel | TextReward | TokenReward
)


def as_reward(reward: AnyReward, policy: pretrained.PretrainedModel) -> Reward:
  """Returns anything that can be a reward as a Scorer with its parameters.

  Args:
    reward: a `Reward`, `llm_reward(...)`, a scalar reward model, a jitted
      function of tokens (prompts, response, mask) -> [B, N], or any other
      function of texts (contexts, responses) -> one number each.
    policy: the policy that is trained.

  Raises:
    ValueError: if a reward model has another vocabulary or sequence than the
      policy, or is not scalar.
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
  if isinstance(user_functions.unbound(reward), jax.stages.Wrapped):
    return token_reward(reward)
  if callable(reward):
    return text_reward(reward, policy)
  raise ValueError(
    f"reward is {reward!r}; give a reward model, llm_reward(...), or a function"
  )
