# SPDX-License-Identifier: Apache-2.0
"""Labels by likelihood: which response would the model itself rather write?

A judge that is not asked. Small models that cannot follow the instructions of
a prompt still say, by their log-probs, which text goes with a context. It
needs log-probs of whole texts, so a model of this process.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import option_probs

_SCORES = ("mean_log_prob", "log_prob", "pmi", "mean_pmi")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
  """What of the log-probs is compared.

      log_prob       log P(y | x)            favours short texts
      mean_log_prob  log P(y | x) / tokens   favours fluent, copied texts
      pmi            log P(y | x) - log P(y)          relevance to x
      mean_pmi       (log P(y | x) - log P(y)) / tokens

  P(first is better) is the logistic function of the difference over
  `temperature`. PMI is the pointwise mutual information of context and
  response (Church and Hanks 1990; Li et al., arXiv 1510.03055, for responses).
  Not of the paper, whose labeler is asked.

  Fields:
    score: one of the above.
    before: text before the context, such as an instruction.
    between: text between context and response; for P(y), it stands alone.
    temperature: nats (or nats a token) that make odds of e.
    max_context_tokens: longer contexts lose their end.
  """

  score: str = "pmi"
  before: str = ""
  between: str = "\n\nSummary:\n"
  temperature: float = 1.0
  max_context_tokens: int = 4096

  def __post_init__(self):
    if self.score not in _SCORES:
      raise ValueError(f"score is {self.score!r}; it should be of {_SCORES}")
    if not 0 < self.temperature < math.inf:
      raise ValueError(
        f"temperature is {self.temperature}; it should be above 0"
      )
    if self.max_context_tokens < 1:
      raise ValueError(
        f"max_context_tokens is {self.max_context_tokens}; it should be at "
        "least 1"
      )
    if not self.between.endswith("\n"):
      raise ValueError(
        f"between is {self.between!r}; it should end with a newline, so that "
        "the response's tokens are its own"
      )

  def provenance(self, backend_name: str) -> dict[str, Any]:
    """All that a label depends on besides the pair itself."""
    return {
      "template": "likelihood",
      "backend": backend_name,
      "settings": dataclasses.asdict(self),
    }

  def fingerprint(self, backend_name: str) -> str:
    """Names all that `provenance` says."""
    made = json.dumps(self.provenance(backend_name), sort_keys=True)
    return records.content_id(made)


def judge_pairs(
  pairs: Sequence[records.Pair],
  backend: protocols.LikelihoodBackend,
  config: LikelihoodConfig,
  *,
  tokenizer: protocols.Tokenizer,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Preference], records.Usage]:
  """Labels pairs by what the model says of each candidate alone.

  There is no order, so no position bias and no `p_orders`. A response is read
  as a text of its own, without an end token.

  Returns:
    Preferences in the order of `pairs`, without the quarantined ones (an
    empty candidate has no likelihood), and what they cost.
  """
  asked = [
    row
    for row, pair in enumerate(pairs)
    if pair.first != pair.second and pair.first and pair.second
  ]
  contexts = [_cut(pairs[row].context, config, tokenizer) for row in asked]
  prompts = [
    config.before + text + config.between for text, _ in contexts for _ in "12"
  ]
  texts = [t for row in asked for t in (pairs[row].first, pairs[row].second)]
  found, usage = backend.log_likelihoods(prompts, texts)
  if config.score.endswith("pmi"):
    alone, more = backend.log_likelihoods([config.between] * len(texts), texts)
    usage += more
    found = [
      (total - own, tokens)
      for (total, tokens), (own, _) in zip(found, alone, strict=True)
    ]
  scores = [
    total / tokens if config.score.startswith("mean") else total
    for total, tokens in found
  ]
  labels = {}
  for i, row in enumerate(asked):
    gap = (scores[2 * i] - scores[2 * i + 1]) / config.temperature
    labels[row] = (0.5 * (1.0 + math.tanh(gap / 2)), contexts[i][1])
  result = []
  for row, pair in enumerate(pairs):
    p, cut = labels.get(row, (0.5, 0))
    empty = pair.first != pair.second and row not in labels
    if empty or not math.isfinite(p):
      reason = "empty candidate" if empty else "non-finite likelihood"
      option_probs.reject(quarantine, row=pair, reason=reason)
      continue
    result.append(
      records.Preference(
        **records.to_row(pair), p_first=p, labeler=backend.name, cut_tokens=cut
      )
    )
  return result, usage


def expected_usage(
  pair: records.Pair, config: LikelihoodConfig, tokenizer: protocols.Tokenizer
) -> tuple[records.Usage, records.Usage]:
  """What a pair reads; nothing is written."""
  context = min(len(tokenizer.encode(pair.context)), config.max_context_tokens)
  own = len(tokenizer.encode(pair.first)) + len(tokenizer.encode(pair.second))
  passes = 2 if config.score.endswith("pmi") else 1
  usage = records.Usage(
    input_tokens=2 * context + passes * own, requests=2 * passes
  )
  return usage, usage


def _cut(
  context: str, config: LikelihoodConfig, tokenizer: protocols.Tokenizer
) -> tuple[str, int]:
  """A context that fits, and how many tokens that cost."""
  ids = tokenizer.encode_plain(context)
  cut = len(ids) - config.max_context_tokens
  if cut <= 0:
    return context, 0
  return tokenizer.decode(ids[: config.max_context_tokens]), cut
