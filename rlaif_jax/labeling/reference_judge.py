# SPDX-License-Identifier: Apache-2.0
"""Reference judge: scores responses by P(better than a fixed reference)."""

from __future__ import annotations

from typing import Mapping, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import pairwise_judge


def judge_responses(
  examples: Sequence[records.Example],
  references: Mapping[str, str],
  backend: protocols.Backend,
  config: pairwise_judge.PairwiseJudgeConfig,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Rating], records.Usage]:
  """Scores each response by the probability that it beats its reference.

  Args:
    examples: responses to score, with ids "CONTEXT_ID/INDEX".
    references: context id -> reference, such as the human-written response.
    backend: language model.
    config: settings of the pairwise judge.
    tokenizer: tokenizer of the backend; see `pairwise_judge.judge_pairs`.
    quarantine: receives examples without a valid judgment.

  Returns:
    Ratings in the order of the examples without the quarantined ones, and the
    tokens used.

  Raises:
    ValueError: a context has no reference, or see `pairwise_judge.judge_pairs`.
  """
  pairs = []
  for example in examples:
    name = example.id.rpartition("/")[0]
    if name not in references:
      raise ValueError(
        f"no reference has the id {name!r}; use the file of the examples whose "
        "contexts were sampled"
      )
    pairs.append(
      records.Pair(
        id=example.id,
        context=example.context,
        first=example.response,
        second=references[name],
      )
    )
  labels, usage = pairwise_judge.judge_pairs(
    pairs, backend, config, tokenizer=tokenizer, quarantine=quarantine
  )
  ratings = [
    records.Rating(
      id=label.id,
      context=label.context,
      response=label.first,
      score=label.p_first,
      probabilities=(label.p_first, 1.0 - label.p_first),
      labeler=label.labeler,
    )
    for label in labels
  ]
  return ratings, usage
