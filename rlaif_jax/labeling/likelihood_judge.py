# SPDX-License-Identifier: Apache-2.0
"""Likelihood judge: compares the log-likelihoods of the two responses.

Needs no judge prompt, so it works with small models that cannot follow
instructions. It needs log-probs of whole texts and therefore a model in this
process, not an endpoint.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Annotated, Literal, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.labeling import option_probs


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodJudgeConfig(validation.Validated):
  """Settings of a likelihood judge.

      log_prob       log P(y | x)            favours short responses
      mean_log_prob  log P(y | x) / tokens   favours fluent or copied responses
      pmi            log P(y | x) - log P(y)          relevance to x
      mean_pmi       (log P(y | x) - log P(y)) / tokens

  P(first is better) is the sigmoid of the score difference divided by
  `temperature`. PMI is the pointwise mutual information of context and
  response (Church and Hanks 1990; Li et al., arXiv 1510.03055, for responses).
  Not in Lee et al.

  Fields:
    score: score of a response, one of the above.
    before: text before the context, such as an instruction.
    between: text between context and response; it is the whole prompt of
      log P(y).
    temperature: score difference, in nats or nats per token, that gives odds
      of e.
    max_context_tokens: limit of the context; longer ones lose their end.
  """

  score: Literal["mean_log_prob", "log_prob", "pmi", "mean_pmi"] = "pmi"
  before: str = ""
  between: str = "\n\nSummary:\n"
  temperature: Annotated[float, validation.Bounds(gt=0, lt=math.inf)] = 1.0
  max_context_tokens: validation.PositiveInt = 4096

  def __post_init__(self):
    super().__post_init__()
    if not self.between.endswith("\n"):
      raise ValueError(
        f"LikelihoodJudgeConfig.between is {self.between!r}; end it with a "
        "newline, so that it shares no token with the response"
      )

  def provenance(self, backend_name: str) -> records.Row:
    """Returns everything that a label depends on besides the pair."""
    return {
      "template": "likelihood",
      "backend": backend_name,
      "settings": dataclasses.asdict(self),
    }

  def fingerprint(self, backend_name: str) -> str:
    """Returns a hash of `provenance`."""
    source = json.dumps(self.provenance(backend_name), sort_keys=True)
    return records.content_id(source)


def judge_pairs(
  pairs: Sequence[records.Pair],
  backend: protocols.LikelihoodBackend,
  config: LikelihoodJudgeConfig,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Preference], records.Usage]:
  """Labels pairs by the likelihood of each response.

  There is no presentation order, so there is no position bias and `p_orders`
  is empty. A response is scored without an end token.

  Args:
    pairs: pairs to label.
    backend: language model that scores whole texts.
    config: settings of the judge.
    tokenizer: tokenizer of the backend, used to truncate long contexts; None
      truncates nothing.
    quarantine: receives pairs with an empty response or a non-finite
      likelihood. None raises for the first such pair.

  Returns:
    Preferences in the order of `pairs` without the quarantined ones, and the
    tokens used.

  Raises:
    ValueError: a pair has no likelihood and `quarantine` is None.
  """
  scored = [
    row
    for row, pair in enumerate(pairs)
    if pair.first != pair.second and pair.first and pair.second
  ]
  contexts = [
    _truncate(pairs[row].context, config, tokenizer) for row in scored
  ]
  prompts = [
    config.before + text + config.between for text, _ in contexts for _ in "12"
  ]
  texts = [t for row in scored for t in (pairs[row].first, pairs[row].second)]
  sums, usage = backend.log_likelihoods(prompts, texts)
  if config.score.endswith("pmi"):
    priors, prior_usage = backend.log_likelihoods(
      [config.between] * len(texts), texts
    )
    usage += prior_usage
    sums = [
      (total - prior, tokens)
      for (total, tokens), (prior, _) in zip(sums, priors, strict=True)
    ]
  scores = [
    total / tokens if config.score.startswith("mean") else total
    for total, tokens in sums
  ]
  labels = {}
  for i, row in enumerate(scored):
    margin = (scores[2 * i] - scores[2 * i + 1]) / config.temperature
    labels[row] = (0.5 * (1.0 + math.tanh(margin / 2)), contexts[i][1])
  result = []
  for row, pair in enumerate(pairs):
    p, cut = labels.get(row, (0.5, 0))
    is_empty = pair.first != pair.second and row not in labels
    if is_empty or not math.isfinite(p):
      reason = "empty response" if is_empty else "non-finite likelihood"
      option_probs.reject(quarantine, row=pair, reason=reason)
      continue
    result.append(
      records.Preference(
        **records.to_row(pair), p_first=p, labeler=backend.name, cut_tokens=cut
      )
    )
  return result, usage


def expected_usage(
  pair: records.Pair,
  config: LikelihoodJudgeConfig,
  tokenizer: protocols.Tokenizer,
) -> tuple[records.Usage, records.Usage]:
  """Returns the expected and the maximum usage of a pair, which are equal."""
  context = min(len(tokenizer.encode(pair.context)), config.max_context_tokens)
  tokens = len(tokenizer.encode(pair.first))
  tokens += len(tokenizer.encode(pair.second))
  passes = 2 if config.score.endswith("pmi") else 1
  usage = records.Usage(
    input_tokens=2 * context + passes * tokens, requests=2 * passes
  )
  return usage, usage


def _truncate(
  context: str,
  config: LikelihoodJudgeConfig,
  tokenizer: protocols.Tokenizer | None,
) -> tuple[str, int]:
  """Returns a context that fits, and the number of tokens removed from it."""
  if tokenizer is None:
    return context, 0
  ids = tokenizer.encode_plain(context)
  cut = len(ids) - config.max_context_tokens
  if cut <= 0:
    return context, 0
  return tokenizer.decode(ids[: config.max_context_tokens]), cut
