# SPDX-License-Identifier: Apache-2.0
"""Direct RLAIF: the labeler's expected 1..10 score as a reward on the device.

The labeler's prompt is put together from token segments around the sampled
response inside the jitted program, so no token leaves the device. The preamble
is read once a run.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, NamedTuple, Sequence

import flax.struct
import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.engine import scoring
from rlaif_jax.labeling import option_probs


@flax.struct.dataclass
class Rater:
  """The labeler's parameters, and the cache of what its prompts begin with,
  read once for all rollouts; None where it cannot be read apart."""

  params: Any
  common: Any


class DirectScorer(NamedTuple):
  """`score`, a Scorer, and `prepare`: what makes its params, a Rater, of the
  labeler's parameters."""

  score: protocols.Scorer
  prepare: Callable[[Any], Rater]


def direct_scorer(
  model: protocols.LanguageModel,
  tokenizer: protocols.Tokenizer,
  *,
  parts: tuple[str, str, str],
  options: Sequence[str],
  chat: tuple[str, str] = ("", ""),
) -> DirectScorer:
  """(score - 5.5) / 4.5 in [-1, 1] of each response (paper section 2.2.2).

  The prompt is bos + parts[0] + context + parts[1] + response + parts[2],
  where the parts meet the texts at newlines, so that the segments' tokens are
  the whole text's. It holds for a labeler with the policy's vocabulary; a
  labeler with another one needs text; use `pointwise_judge.judge_responses`.

  Args:
    model: functions of the labeler.
    tokenizer: of both policy and labeler.
    parts: constant texts, from `prompts.Template.pointwise_parts`.
    options: the ten score strings.
    chat: text before and after a user message, of an instruct labeler.
  """
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  before, between, after = (tuple(tokenizer.encode(part)) for part in parts)
  before = (*begin, *tokenizer.encode(chat[0]), *before)
  after = (*after, *tokenizer.encode(chat[1]))
  option_ids = tuple(tuple(tokenizer.encode(option)) for option in options)
  prefix_of = option_probs.prefix_options(options, tokenizer)
  eos_ids = jnp.asarray(tokenizer.eos_ids)
  # What all begin with is read once, and each context once for its responses.
  is_shared = bool(model.is_causal and before and after)

  def prepare(params: Any) -> Rater:
    if not is_shared:
      return Rater(params=params, common=None)
    read = functools.partial(prefix_sharing.prefill_prefix, model)
    return Rater(params=params, common=jax.jit(read)(params, *_join([before])))

  def score(
    rater: Rater,
    prompts: batches.PromptBatch,
    response: jax.Array,
    mask: jax.Array,
  ) -> jax.Array:
    # The end token is the policy's, not part of the text that is rated.
    rated = (response, (mask > 0) & ~jnp.isin(response, eos_ids))
    shape, samples = response.shape[:2], response.shape[1]
    rated = jax.tree.map(lambda x: x.reshape(-1, x.shape[2]), rated)
    context = (prompts.context, prompts.context_valid)
    if is_shared:
      prefixes, prefix_valid = _join([context, between])
      suffixes, suffix_valid = _join([rated, after])
      shared = prefix_sharing.SharedPrompts(
        group_tokens=prefixes,
        group_valid=prefix_valid,
        group_ids=jnp.repeat(jnp.arange(prefixes.shape[0]), samples),
        suffix=suffixes,
        suffix_valid=suffix_valid,
      )
      log_probs = scoring.shared_option_log_probs(
        model, rater.params, rater.common, shared, option_ids
      )
    else:
      context = batches.repeat_rows(context, samples)
      tokens, valid = _join([before, context, between, rated, after])
      log_probs = scoring.option_log_probs(
        model, rater.params, tokens, valid, option_ids
      )
    probabilities = option_probs.probabilities_from_log_probs(
      log_probs, prefix_of, xp=jnp
    )
    scores = option_probs.expected_score(probabilities, xp=jnp)
    return option_probs.to_reward(scores).reshape(shape)

  return DirectScorer(score=score, prepare=prepare)


def _join(segments: Sequence[Any]) -> tuple[jax.Array, jax.Array]:
  """Tokens and valid [B, L] of segments side by side.

  A segment is (tokens, valid), or ids that are the same in every row.
  """
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


def _is_array(segment: Any) -> bool:
  return bool(segment) and not isinstance(segment[0], int)
