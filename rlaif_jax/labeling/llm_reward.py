# SPDX-License-Identifier: Apache-2.0
"""d-RLAIF: a labeler's opinion of a response as a reward on the device.

It is the labeler's expected score of 1 to 10, or how much more likely the
context makes the response. The labeler's prompt is assembled from token
segments around the response inside the jitted program, so no token leaves the
device.
"""

from __future__ import annotations

import functools
from typing import Callable, NamedTuple, Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.engine import scoring
from rlaif_jax.labeling import option_probs

# Token ids that are the same in every row, or tokens and valid of each row.
Segment = (
  tuple[int, ...] | tuple[Int[Array, "B columns"], Bool[Array, "B columns"]]
)


@flax.struct.dataclass
class LabelerParams:
  """The labeler's parameters and the cache of its prompts' prefix.

  `prefix` is None if the labeler cannot read its prompts in pieces.
  """

  params: protocols.Params
  prefix: protocols.Cache | None


class LabelerScorer(NamedTuple):
  """A labeler's scores of responses as a reward.

  Attributes:
    score: reward function; its parameters are LabelerParams.
    prepare: (parameters of the labeler) -> LabelerParams.
    fixed_tokens: tokens of a prompt and its option without context and
      response.
  """

  score: protocols.Scorer
  prepare: Callable[[protocols.Params], LabelerParams]
  fixed_tokens: int


def labeler_scorer(
  model: protocols.LanguageModel,
  tokenizer: protocols.Tokenizer,
  *,
  parts: tuple[str, str, str],
  options: Sequence[str],
  chat: tuple[str, str] = ("", ""),
  chosen: int | None = None,
) -> LabelerScorer:
  """Returns (score - 5.5) / 4.5 in [-1, 1] as a reward (paper section 2.2.2).

  The prompt is bos + parts[0] + context + parts[1] + response + parts[2]. Parts
  and texts meet at newlines, so that the tokens of the segments are those of
  the whole text. The labeler must have the policy's vocabulary; a labeler with
  another vocabulary reads text (`pointwise_judge.judge_responses`).

  Args:
    model: functions of the labeler.
    tokenizer: of policy and labeler.
    parts: constant texts, from `prompts.Template.pointwise_parts`.
    options: the ten score strings, or two that say yes and no.
    chat: text before and after a user message of an instruct labeler.
    chosen: the option of a yes/no question whose probability p is the reward
      2 p - 1; None: the options are scores.
  """
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  before, between, after = (tuple(tokenizer.encode(part)) for part in parts)
  before = (*begin, *tokenizer.encode(chat[0]), *before)
  after = (*after, *tokenizer.encode(chat[1]))
  option_ids = option_probs.option_ids(options, tokenizer)
  prefix_of = option_probs.prefix_options(options, tokenizer)
  eos_ids = jnp.asarray(tokenizer.eos_ids)
  # Each context is then prefilled once for all of its responses.
  is_shared = bool(model.is_causal and before and after)

  def prepare(params: protocols.Params) -> LabelerParams:
    if not is_shared:
      return LabelerParams(params=params, prefix=None)
    prefill = jax.jit(functools.partial(prefix_sharing.prefill_prefix, model))
    return LabelerParams(
      params=params, prefix=prefill(params, *join_segments([before]))
    )

  def score(
    labeler: LabelerParams,
    prompts: batches.PromptBatch,
    response: Int[Array, "B N R"],
    mask: Float[Array, "B N R"],
  ) -> Float[Array, "B N"]:
    # The end token belongs to the policy's output, not to the rated text.
    rated = (response, (mask > 0) & ~jnp.isin(response, eos_ids))
    rated = jax.tree.map(lambda x: x.reshape(-1, x.shape[2]), rated)
    context = (prompts.context, prompts.context_valid)
    rows, num_samples, _ = response.shape
    if is_shared:
      group_tokens, group_valid = join_segments([context, between])
      suffix, suffix_valid = join_segments([rated, after])
      shared = prefix_sharing.SharedPrompts(
        group_tokens=group_tokens,
        group_valid=group_valid,
        group_ids=jnp.repeat(jnp.arange(rows), num_samples),
        suffix=suffix,
        suffix_valid=suffix_valid,
      )
      log_probs = scoring.shared_option_log_probs(
        model, labeler.params, labeler.prefix, shared, option_ids
      )
    else:
      context = batches.repeat_rows(context, num_samples)
      tokens, valid = join_segments([before, context, between, rated, after])
      log_probs = scoring.option_log_probs(
        model, labeler.params, tokens, valid, option_ids
      )
    probabilities = option_probs.probabilities_from_log_probs(
      log_probs, prefix_of, xp=jnp
    )
    return _to_reward(probabilities, chosen).reshape(rows, num_samples)

  # The last token of an option is predicted, and not read.
  fixed = sum(map(len, (before, between, after))) - 1
  fixed += max(map(len, option_ids))
  return LabelerScorer(score=score, prepare=prepare, fixed_tokens=fixed)


def _to_reward(
  probabilities: Float[Array, "B options"], chosen: int | None
) -> Float[Array, " B"]:
  if chosen is not None:
    return 2.0 * probabilities[:, chosen] - 1.0
  scores = option_probs.expected_score(probabilities, xp=jnp)
  return option_probs.to_reward(scores)


def likelihood_scorer(
  model: protocols.LanguageModel,
  tokenizer: protocols.Tokenizer,
  *,
  between: str,
  chat: tuple[str, str] = ("", ""),
  per_token: bool = True,
) -> LabelerScorer:
  """Returns log P(y | x) - log P(y) as a reward, not in Lee et al.

  It is `pmi` of `likelihood_judge`, or `mean_pmi`, for labelers that are too
  small to be asked. log P(y) is that of the response after `between` alone. The
  end token is not part of the response, and one without tokens gets 0, as if
  the context had no effect. The labeler must have the policy's vocabulary.

  Args:
    model: functions of the labeler.
    tokenizer: of policy and labeler.
    between: text between context and response; it ends with a newline.
    chat: text before and after a user message of an instruct labeler.
    per_token: divides by the number of tokens.
  """
  before = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  before = (*before, *tokenizer.encode(chat[0]))
  after = (*tokenizer.encode(between), *tokenizer.encode(chat[1]))
  eos_ids = jnp.asarray(tokenizer.eos_ids)

  def score(
    labeler: LabelerParams,
    prompts: batches.PromptBatch,
    response: Int[Array, "B N R"],
    mask: Float[Array, "B N R"],
  ) -> Float[Array, "B N"]:
    rated = (mask > 0) & ~jnp.isin(response, eos_ids)
    rows = response.shape[0]

    def log_prob(*segments):
      tokens, valid = join_segments(segments)
      texts = batches.GroupBatch(
        prompt=jnp.broadcast_to(tokens, (rows, tokens.shape[1])),
        prompt_valid=jnp.broadcast_to(valid, (rows, tokens.shape[1])),
        response=response,
        response_valid=rated,
      )
      terms = scoring.response_log_probs(model, labeler.params, texts)
      return jnp.sum(jnp.where(rated, terms, 0.0), axis=2)

    context = (prompts.context, prompts.context_valid)
    gain = log_prob(before, context, after) - log_prob(before, after)
    count = jnp.sum(rated, axis=2) if per_token else 1
    return gain / jnp.maximum(count, 1)

  def prepare(params: protocols.Params) -> LabelerParams:
    return LabelerParams(params=params, prefix=None)

  return LabelerScorer(score, prepare, len(before) + len(after))


def join_segments(
  segments: Sequence[Segment],
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
  """Returns the tokens and valid of concatenated segments."""
  rows = max((s[0].shape[0] for s in segments if _is_array(s)), default=1)

  def arrays(segment):
    if _is_array(segment):
      return segment
    ids = jnp.broadcast_to(
      jnp.asarray(segment, jnp.int32)[None], (rows, len(segment))
    )
    return ids, jnp.ones(ids.shape, bool)

  tokens, valid = zip(*map(arrays, segments), strict=True)
  return jnp.concatenate(tokens, axis=1), jnp.concatenate(valid, axis=1)


def _is_array(segment: Segment) -> bool:
  return bool(segment) and not isinstance(segment[0], int)
