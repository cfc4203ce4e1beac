# SPDX-License-Identifier: Apache-2.0
"""Packs prompts of unequal lengths into rows of few shapes.

What prompts share is read once (`prefixes`). The rest of each prompt is packed
into rows, so that prompts of any lengths compile one or two programs and few
columns are padding.
"""

from __future__ import annotations

import dataclasses
from typing import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from rlaif_jax.core import batches
from rlaif_jax.core import bin_packing
from rlaif_jax.labeling import prefixes

# Maximum number of prompts of a segment, all of which are in one row.
_MAX_CONTINUATIONS = 8
# Minimum number of tokens that are shared.
_MIN_SHARED = 4


@dataclasses.dataclass(frozen=True)
class PackedCall:
  """The prompts of one device call.

  Attributes:
    places: (prompt, row, number within the row) of each prompt.
    prefix: token ids that all prompts of all calls start with.
    batch: the prompts without the prefix.
  """

  places: list[tuple[int, int, int]]
  prefix: tuple[int, ...]
  batch: batches.PackedBatch

  def columns(self, bucket: int) -> Int[np.ndarray, "N W"]:
    """Returns the columns of each prompt's tokens, in the order of `places`.

    Columns are counted through all rows, and are -1 after a prompt's last one.
    W is padded by `prefixes.bucket_length`, and N to a multiple of eight with
    prompts that have no columns.
    """
    segment_ids, continuation_ids, last = (
      self.batch.segment_ids,
      self.batch.continuation_ids,
      self.batch.columns,
    )
    found = []
    for _, row, number in self.places:
      end = last[row, number]
      own = segment_ids[row] == segment_ids[row, end]
      own &= (continuation_ids[row] == 0) | (
        continuation_ids[row] == continuation_ids[row, end]
      )
      found.append(row * segment_ids.shape[1] + np.flatnonzero(own))
    shape = (
      prefixes.bucket_length(len(found), 8),
      prefixes.bucket_length(max(map(len, found)), bucket),
    )
    result = np.full(shape, -1, np.int32)
    for i, prompt in enumerate(found):
      result[i, : len(prompt)] = prompt
    return result


@dataclasses.dataclass(frozen=True)
class Segments:
  """Prompts grouped into segments.

  Attributes:
    ids: tokens of each prompt.
    prefix: number of first tokens that all prompts share.
    groups: prompts of each segment.
    sizes: columns of each segment, without the prefix.
    bucket: rows have a multiple of this many columns.
  """

  ids: list[tuple[int, ...]]
  prefix: int
  groups: list[prefixes.PromptGroup]
  sizes: list[int]
  bucket: int

  @property
  def is_uneven(self) -> bool:
    """Whether lengths differ so much that packing is faster than padding.

    Prompts of about one length have little padding in `share_prefixes`, where
    no prompt computes scores with the columns of another.
    """
    return bool(self.sizes) and (
      max(self.sizes) > 1.25 * sum(self.sizes) / len(self.sizes)
    )


def make_segments(ids: Sequence[Sequence[int]], *, bucket: int) -> Segments:
  """Groups prompts of at least one token each into segments."""
  ids = [tuple(tokens) for tokens in ids]
  heads = [tokens[:-1] for tokens in ids]
  prefix = prefixes.prefix_length(heads, bucket) if heads else 0
  groups = prefixes.group_by_prefix(
    heads, prefix, _MIN_SHARED, _MAX_CONTINUATIONS
  )
  sizes = [
    sum(len(ids[row]) - g.shared for row in g.rows) + g.shared - prefix
    for g in groups
  ]
  return Segments(ids, prefix, groups, sizes, bucket)


def pack(segments: Segments, *, batch_size: int) -> Iterator[PackedCall]:
  """Yields batches of packed prompts; the layout depends on the tokens only.

  Args:
    segments: prompts to pack.
    batch_size: approximate number of prompts of a batch. The number of rows is
      a power of two, so that few programs are compiled.
  """
  if not segments.sizes:
    return
  rows = _rows(segments)
  for columns in sorted(rows):
    grouped = [[segments.groups[s] for s in row] for row in rows[columns]]
    counts = [sum(len(group.rows) for group in row) for row in grouped]
    num_prompts = prefixes.power_of_two(max(counts))
    mean = sum(counts) / len(grouped)
    height = prefixes.power_of_two(max(1, round(batch_size / mean)))
    for begin in range(0, len(grouped), height):
      part = grouped[begin : begin + height]
      shape = (min(height, prefixes.power_of_two(len(part))), columns)
      yield _call(segments, part, shape, num_prompts)


def _rows(segments: Segments) -> dict[int, list[list[int]]]:
  """Returns the segments of each row by the row's number of columns.

  A row has columns for about two segments of average size, doubled until its
  first, largest segment fits. Smaller segments fill the rest.
  """
  sizes = segments.sizes
  base = prefixes.bucket_length(
    2 * sum(sizes) // len(sizes), 8 * segments.bucket
  )

  def columns(segment: int) -> int:
    return base * prefixes.power_of_two(-(-max(sizes[segment], 1) // base))

  found: dict[int, list[list[int]]] = {}
  for row in bin_packing.first_fit(
    np.asarray(sizes)[:, None],
    sorted(range(len(sizes)), key=lambda i: -sizes[i]),
    lambda segment: [columns(segment)],
  ):
    found.setdefault(columns(row[0]), []).append(row)
  return found


def _call(
  segments: Segments,
  rows: Sequence[Sequence[prefixes.PromptGroup]],
  shape: tuple[int, int],
  num_prompts: int,
) -> PackedCall:
  """Returns rows as arrays, padded to `shape` and `num_prompts` per row."""
  ids, prefix = segments.ids, segments.prefix
  tokens, segment_ids, continuation_ids = np.zeros((3, *shape), np.int32)
  last = np.zeros((shape[0], num_prompts), np.int32)
  places = []
  for row, groups in enumerate(rows):
    column = number = 0
    for segment, group in enumerate(groups, 1):
      pieces = [ids[group.rows[0]][prefix : group.shared]]
      pieces += [ids[prompt][group.shared :] for prompt in group.rows]
      for continuation, piece in enumerate(pieces):
        here = slice(column, column + len(piece))
        tokens[row, here] = piece
        segment_ids[row, here] = segment
        continuation_ids[row, here] = continuation
        column = here.stop
        if continuation:
          places.append((group.rows[continuation - 1], row, number))
          last[row, number] = column - 1
          number += 1
  batch = batches.PackedBatch(
    tokens=tokens,
    segment_ids=segment_ids,
    continuation_ids=continuation_ids,
    columns=last,
  )
  return PackedCall(places, ids[places[0][0]][:prefix], batch)
