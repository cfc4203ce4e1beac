# SPDX-License-Identifier: Apache-2.0
"""Pairs of sampled responses, to be labelled, and the best of them."""

from __future__ import annotations

import dataclasses
from typing import Iterable, Mapping, Sequence

from rlaif_jax.core import records


def by_context(
  responses: Iterable[records.Response],
) -> dict[str, list[records.Response]]:
  """Returns context id -> its responses; both in the given order."""
  groups: dict[str, list[records.Response]] = {}
  for response in responses:
    groups.setdefault(response.id, []).append(response)
  return groups


def make_pairs(
  examples: Sequence[records.Example],
  responses: Iterable[records.Response],
  num_samples: int,
  human_pairs: bool,
) -> list[records.Pair]:
  """Returns the pairs of samples 0 and 1, 2 and 3, ... of each context.

  A hash of the texts decides which one is first, so the order carries no
  information.

  Args:
    examples: contexts with their human-written responses.
    responses: `num_samples` samples of each context.
    num_samples: samples per context.
    human_pairs: also pairs sample 0 with the human-written response.
  """
  by_id = by_context(responses)
  pairs = []
  for example in examples:
    texts = [r.text for r in by_id[example.id]]
    for j in range(0, num_samples - 1, 2):
      pairs.append(_pair(example, texts[j], texts[j + 1], "samples"))
    if human_pairs:
      pairs.append(_pair(example, texts[0], example.response, "human"))
  return pairs


def best(
  responses: Iterable[records.Response], scores: Mapping[str, float]
) -> list[records.Response]:
  """Returns the response with the highest score of each context.

  Their log-probs are 0.0, since those of a sample are not those of the best of
  n. Responses without a score are left out.

  Args:
    responses: samples, as many of each context.
    scores: "ID/INDEX" of a response -> its score.

  Returns:
    Nothing if a context has only one response.
  """

  def score(response: records.Response) -> float:
    return scores[f"{response.id}/{response.index}"]

  groups = by_context(
    row for row in responses if f"{row.id}/{row.index}" in scores
  )
  if min(map(len, groups.values()), default=0) < 2:
    return []
  return [
    dataclasses.replace(max(group, key=score), log_prob=0.0, ref_log_prob=0.0)
    for group in groups.values()
  ]


def _pair(example, a, b, source) -> records.Pair:
  name = records.content_id(example.id, a, b)
  first, second = (a, b) if records.is_odd(name) else (b, a)
  return records.Pair(
    id=name,
    context=example.context,
    first=first,
    second=second,
    source=source,
  )
