# SPDX-License-Identifier: Apache-2.0
"""Items to rate: responses of policies to common contexts, or pairs."""

from __future__ import annotations

from typing import Iterable, Mapping

from rlaif_jax.core import records
from rlaif_jax.rating import annotations


def from_responses(
  sampled: Mapping[str, Mapping[str, records.Response]],
  *,
  mode: str,
  limit: int = 0,
) -> tuple[list[annotations.Item], int]:
  """Returns one item per context that all policies answered.

  Args:
    sampled: policy -> context id -> response, as `run_files.responses`.
    mode: see `annotations.AnnotationConfig.mode`; "rank" skips contexts whose
      responses are all equal.
    limit: number of contexts, in the order of their ids; 0 takes all.

  Returns:
    The items, and the number of skipped contexts.

  Raises:
    ValueError: "rank" has fewer than two policies, or there are no items.
  """
  names = tuple(sampled)
  if mode == "rank" and len(names) < 2:
    raise ValueError(
      f"rate: responses has the policies {list(names)}; set two or more to "
      "rank, or set AnnotationConfig.mode to 'harmful'"
    )
  order = sorted(set.intersection(*(set(by_id) for by_id in sampled.values())))
  items = [
    annotations.Item(
      id=name,
      context=sampled[names[0]][name].context,
      names=names,
      responses=tuple(sampled[policy][name].text for policy in names),
    )
    for name in (order[:limit] if limit else order)
  ]
  kept = [i for i in items if mode != "rank" or len(set(i.responses)) > 1]
  if not kept:
    raise ValueError(
      f"rate: {sorted(names)} have no context in common with different "
      "responses; sample responses of all policies for the same split"
    )
  return kept, len(items) - len(kept)


def from_pairs(
  pairs: Iterable[records.Pair],
) -> tuple[list[annotations.Item], int]:
  """Returns one item per pair, and the number of pairs of equal responses.

  Raises:
    ValueError: there are no items.
  """
  items, num_equal = {}, 0
  for pair in pairs:
    num_equal += pair.first == pair.second
    if pair.first != pair.second:
      items[pair.id] = annotations.Item(
        id=pair.id,
        context=pair.context,
        names=("first", "second"),
        responses=(pair.first, pair.second),
      )
  if not items:
    raise ValueError(
      f"rate: there are no pairs with different responses ({num_equal} pairs "
      "are equal)"
    )
  return list(items.values()), num_equal
