# SPDX-License-Identifier: Apache-2.0
"""A pairwise judge as a reward: the share of comparisons that a sample wins.

The samples of a prompt are compared with each other, or with a reference, in
both orders. On the device, tokens of the judge's prompts are assembled around
the samples, and the text up to the first sample is read once per prompt.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import validation
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.engine import scoring
from rlaif_jax.labeling import llm_reward
from rlaif_jax.labeling import option_probs
from rlaif_jax.ops import pair_choice

# Odd multiplier of the rolling hash that orders samples.
_HASH = 0x01000193


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleComparison(validation.Validated):
  """The comparisons of a prompt's samples, and how lengths count.

  Attributes:
    compare: "all" pairs of a prompt's N samples; a "ring" of the samples in an
      order that depends on their texts alone, each with its next `neighbours`;
      or each sample with a "reference" response.
    neighbours: samples that follow in the ring.
    length_penalty: subtracted for each mean length of the group by which a
      sample is longer than it.
  """

  compare: Literal["all", "ring", "reference"] = "all"
  neighbours: validation.PositiveInt = 1
  length_penalty: validation.NonNegativeFloat = 0.0

  def pairs(self, samples: int) -> Int[np.ndarray, "M 2"]:
    """Returns the compared samples; a reference has the number `samples`.

    Raises:
      ValueError: if samples are compared with each other, and there is one.
    """
    if self.compare == "reference":
      return np.array([(i, samples) for i in range(samples)])
    if samples < 2:
      raise ValueError(
        f"RLConfig.samples_per_prompt is {samples}, and a pairwise judge "
        f"compares them ({self.compare!r}); use at least 2, or compare = "
        "'reference'"
      )
    neighbours = samples if self.compare == "all" else self.neighbours
    return pair_choice.ring(samples, neighbours)


@flax.struct.dataclass
class PairwiseParams:
  """Parameters of the labeler, and texts of each row of the data.

  Attributes:
    labeler: parameters, and the cache of the prompts' prefix.
    references: tokens and valid of the references by `PromptBatch.row`.
    criteria: tokens and valid of the texts that follow the contexts, likewise.
  """

  labeler: llm_reward.LabelerParams
  references: tuple[Int[Array, "n R"], Bool[Array, "n R"]] | None = None
  criteria: tuple[Int[Array, "n K"], Bool[Array, "n K"]] | None = None


def rewards_of_wins(
  wins: Float[Array, "B M"],
  pairs: Int[np.ndarray, "M 2"],
  equal: Bool[Array, "B N N"],
) -> Float[Array, "B N"]:
  """Returns each sample's mean probability of winning its comparisons.

  Equal samples get the mean of their rewards, which differ where they have
  other neighbours.

  Args:
    wins: probability that the first of a pair wins.
    pairs: compared samples; numbers from N on have no reward.
    equal: whether two samples are the same.
  """
  size = equal.shape[-1]
  first, second = (
    np.arange(size)[:, None] == pairs[None, :, i] for i in (0, 1)
  )
  total = wins @ first.T.astype(np.float32)
  total += (1.0 - wins) @ second.T.astype(np.float32)
  own = total / (first.sum(axis=1) + second.sum(axis=1))[None]
  weights = equal / jnp.sum(equal, axis=-1, keepdims=True)
  return jnp.sum(weights * own[:, None], axis=-1)


@dataclasses.dataclass(frozen=True)
class _Questions:
  """The labeler and the constant tokens of its prompts.

  Attributes:
    model: functions of the labeler.
    segments: tokens before the context, before the first response, between both
      and after the second.
    option_ids: tokens of the options.
    prefix_of: see `option_probs.prefix_options`.
  """

  model: protocols.LanguageModel
  segments: tuple[tuple[int, ...], ...]
  option_ids: scoring.OptionIds
  prefix_of: tuple[int, ...]

  @property
  def is_shared(self) -> bool:
    """Whether a context is read once for all of its comparisons."""
    return bool(self.model.is_causal and self.segments[0] and self.segments[1])

  def prepare(self, params: protocols.Params) -> llm_reward.LabelerParams:
    """Returns the parameters with the cache of the prompts' prefix."""
    if not self.is_shared:
      return llm_reward.LabelerParams(params=params, prefix=None)
    prefill = jax.jit(
      functools.partial(prefix_sharing.prefill_prefix, self.model)
    )
    prefix = prefill(params, *llm_reward.join_segments(self.segments[:1]))
    return llm_reward.LabelerParams(params=params, prefix=prefix)

  def first_option(self, labeler, context, shown) -> Float[Array, "B M"]:
    """Returns P(option 1) of M prompts for each context.

    Args:
      labeler: LabelerParams.
      context: segments of the B contexts.
      shown: tokens and valid [B, M, R] of the first and the second responses.
    """
    before, opening, between, after = self.segments
    rows, count = shown[0][0].shape[:2]
    flat = [jax.tree.map(lambda x: x.reshape(-1, x.shape[2]), s) for s in shown]
    responses = [flat[0], between, flat[1], after]
    if self.is_shared:
      tokens, valid = llm_reward.join_segments([*context, opening])
      suffix, suffix_valid = llm_reward.join_segments(responses)
      shared = prefix_sharing.SharedPrompts(
        group_tokens=tokens,
        group_valid=valid,
        group_ids=jnp.repeat(jnp.arange(rows), count),
        suffix=suffix,
        suffix_valid=suffix_valid,
      )
      log_probs = scoring.shared_option_log_probs(
        self.model, labeler.params, labeler.prefix, shared, self.option_ids
      )
    else:
      context = [batches.repeat_rows(part, count) for part in context]
      tokens, valid = llm_reward.join_segments(
        [before, *context, opening, *responses]
      )
      log_probs = scoring.option_log_probs(
        self.model, labeler.params, tokens, valid, self.option_ids
      )
    found = option_probs.probabilities_from_log_probs(
      log_probs, self.prefix_of, xp=jnp
    )
    return found[:, 0].reshape(rows, count)

  def wins(self, labeler, context, first, second) -> Float[Array, "B M"]:
    """Returns P(first beats second), the mean over both orders."""
    # Both orders in one call, which reads each context once.
    shown = [
      jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *sides)
      for sides in ((first, second), (second, first))
    ]
    chosen = self.first_option(labeler, context, shown)
    ahead, behind = jnp.split(chosen, 2, axis=1)
    return 0.5 * (ahead + 1.0 - behind)


def pairwise_scorer(
  model: protocols.LanguageModel,
  tokenizer: protocols.Tokenizer,
  *,
  parts: tuple[str, str, str, str],
  options: Sequence[str],
  comparison: SampleComparison,
  flipped: bool = False,
  chat: tuple[str, str] = ("", ""),
) -> llm_reward.LabelerScorer:
  """Returns the mean probability of winning as a reward in [0, 1].

  P(a beats b) is the mean over both orders, as in `pairwise_judge.judge_pairs`;
  two equal samples tie at 0.5. The parameters of the score are PairwiseParams.
  The labeler must have the policy's vocabulary.

  Args:
    model: functions of the labeler.
    tokenizer: of policy and labeler.
    parts: constant texts, from `prompts.Template.pairwise_parts`.
    options: the strings that choose the first and the second response.
    comparison: what is compared.
    flipped: whether an option names the worse response.
    chat: text before and after a user message of an instruct labeler.
  """
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  before, opening, between, after = (
    tuple(tokenizer.encode(part)) for part in parts
  )
  before = (*begin, *tokenizer.encode(chat[0]), *before)
  after = (*after, *tokenizer.encode(chat[1]))
  questions = _Questions(
    model,
    (before, opening, between, after),
    option_probs.option_ids(options, tokenizer),
    option_probs.prefix_options(options, tokenizer),
  )
  eos_ids = jnp.asarray(tokenizer.eos_ids)

  def score(
    params: PairwiseParams,
    prompts: batches.PromptBatch,
    response: Int[Array, "B N R"],
    mask: Float[Array, "B N R"],
  ) -> Float[Array, "B N"]:
    # The end token belongs to the policy's output, not to the judged text.
    valid = (mask > 0) & ~jnp.isin(response, eos_ids)
    tokens = jnp.where(valid, response, 0)
    order = _order(tokens, valid)
    samples = others = _take((tokens, valid), order)
    if params.references is not None:
      others = _with_reference(samples, params.references, prompts.row)
    pairs = comparison.pairs(tokens.shape[1])
    first, second = (
      jax.tree.map(lambda x, i=i: x[:, pairs[:, i]], others) for i in (0, 1)
    )
    context = [(prompts.context, prompts.context_valid)]
    if params.criteria is not None:
      context.append(tuple(x[prompts.row] for x in params.criteria))
    wins = questions.wins(params.labeler, context, first, second)
    wins = 1.0 - wins if flipped else wins
    same = jnp.all((first[0] == second[0]) & (first[1] == second[1]), axis=-1)
    wins = jnp.where(same, 0.5, wins)
    rewards = rewards_of_wins(wins, pairs, _is_equal(samples, samples))
    lengths = jnp.sum(samples[1], axis=2).astype(jnp.float32)
    rewards -= comparison.length_penalty * relative_length(lengths)
    return jnp.take_along_axis(rewards, jnp.argsort(order, axis=1), axis=1)

  # The last token of an option is predicted, and not read.
  fixed = sum(map(len, questions.segments)) - 1
  fixed += max(map(len, questions.option_ids))
  return llm_reward.LabelerScorer(score, questions.prepare, fixed)


def relative_length(
  lengths: Float[Array | np.ndarray, "B N"],
) -> Float[Array | np.ndarray, "B N"]:
  """Returns (length - group mean) / group mean; 0 if all are empty."""
  mean = lengths.mean(axis=1, keepdims=True)
  return (lengths - mean) / (mean + (mean == 0))


def _order(
  tokens: Int[Array, "B N R"], valid: Bool[Array, "B N R"]
) -> Int[Array, "B N"]:
  """Returns the samples in an order that depends on their tokens alone."""

  def add(total, column):
    token, real = column
    value = (total ^ (token.astype(jnp.uint32) + 1)) * jnp.uint32(_HASH)
    return jnp.where(real, value, total), None

  start = jnp.full(tokens.shape[:2], 0x811C9DC5, jnp.uint32)
  columns = (jnp.moveaxis(tokens, 2, 0), jnp.moveaxis(valid, 2, 0))
  total, _ = jax.lax.scan(add, start, columns)
  return jnp.argsort(total, axis=1, stable=True)


def _take(tree, order: Int[Array, "B N"]):
  return jax.tree.map(
    lambda x: jnp.take_along_axis(x, order[..., None], axis=1), tree
  )


def _is_equal(one, other) -> Bool[Array, "B N N"]:
  return jnp.all(
    (one[0][:, :, None] == other[0][:, None])
    & (one[1][:, :, None] == other[1][:, None]),
    axis=-1,
  )


def _with_reference(samples, references, row: Int[Array, " B"]):
  """Appends the reference of each row to its samples: [B, N + 1, R]."""

  def join(own, reference):
    own = jnp.asarray(own)
    width = max(own.shape[2], reference.shape[1])
    own = jnp.pad(own, ((0, 0), (0, 0), (0, width - own.shape[2])))
    pad = ((0, 0), (0, width - reference.shape[1]))
    reference = jnp.pad(reference, pad)[row]
    return jnp.concatenate([own, reference[:, None]], axis=1)

  return jax.tree.map(join, samples, tuple(references))


def group_wins(
  known: Sequence[float | None], pairs: Int[np.ndarray, "M 2"], samples: int
) -> list[float | None]:
  """Returns the mean wins of one group from judged pairs, in numpy.

  Args:
    known: probability that the first of a pair wins; None if it is not known.
    pairs: compared samples; see `rewards_of_wins`.
    samples: number of samples.

  Returns:
    The mean of a sample's known comparisons; None without any.
  """
  found: list[list[float]] = [[] for _ in range(samples + 1)]
  for (first, second), p in zip(pairs, known, strict=True):
    if p is not None:
      found[first].append(p)
      found[second].append(1.0 - p)
  return [
    float(np.mean(values)) if values else None for values in found[:samples]
  ]
