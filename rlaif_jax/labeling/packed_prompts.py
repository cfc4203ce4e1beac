# SPDX-License-Identifier: Apache-2.0
"""Prompts of unequal lengths side by side in rows, for one or two programs.

What prompts share is read once (`prefixes`), and what is left of them fills
rows of few lengths, so texts of any lengths compile next to nothing and little
of what is read is padding. It serves where only the last columns are asked
for: a row has no cache that its prompts could go on from.
"""

from __future__ import annotations

import dataclasses
from typing import Iterator, Sequence

import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.labeling import prefixes

# Prompts of one document, at most: a row has to hold all of them.
_BRANCHES = 8
# Tokens that are worth sharing.
_WORTH = 4


@dataclasses.dataclass(frozen=True)
class Part:
  """One device call.

  places: (prompt, row, number within the row) of each prompt that it answers.
  common: what all prompts begin with, the same in all parts of a call.
  batch: the rest of them.
  """

  places: list[tuple[int, int, int]]
  common: tuple[int, ...]
  batch: batches.PackedPrompts


def pack(
  ids: Sequence[Sequence[int]], *, batch_size: int, bucket: int
) -> Iterator[Part]:
  """Batches of packed prompts, laid out by their tokens alone.

  Args:
    ids: tokens of each prompt, at least one.
    batch_size: prompts of a batch, about; the number of rows is a power of
      two, so that few programs are compiled.
    bucket: see `prefixes.share`; rows are some multiple of it long.
  """
  ids = [tuple(tokens) for tokens in ids]
  if not ids:
    return
  common, groups, sizes = _documents(ids, bucket)
  # About two documents a row, so that they fill it.
  base = prefixes.bucket_length(2 * sum(sizes) // len(sizes), 8 * bucket)
  rows = _first_fit(sizes, base)
  for columns in sorted(rows):
    alike = [[groups[g] for g in row] for row in rows[columns]]
    counts = [sum(len(group.rows) for group in row) for row in alike]
    most = prefixes.power_of_two(max(counts))
    # Rows of a batch: so many that they have about `batch_size` prompts.
    each = sum(counts) / len(alike)
    height = prefixes.power_of_two(max(1, round(batch_size / each)))
    for begin in range(0, len(alike), height):
      here = alike[begin : begin + height]
      shape = (min(height, prefixes.power_of_two(len(here))), columns)
      yield _part(ids, here, common, shape, most)


def is_worth_it(ids: Sequence[Sequence[int]], *, bucket: int) -> bool:
  """Whether documents differ in length.

  Those of one length, or nearly, are padded little by `prefixes.share`, where
  none looks at the columns of another in vain.
  """
  _, _, sizes = _documents([tuple(tokens) for tokens in ids], bucket)
  return max(sizes) > 1.25 * sum(sizes) / len(sizes)


def _documents(
  ids: Sequence[tuple[int, ...]], bucket: int
) -> tuple[int, list[prefixes.Group], list[int]]:
  """Tokens that all begin with; who shares a document; how long each is."""
  heads = [tokens[:-1] for tokens in ids]
  common = prefixes.common_length(heads, bucket)
  groups = prefixes.groups_of(heads, common, _WORTH, _BRANCHES)
  sizes = [
    sum(len(ids[row]) - g.shared for row in g.rows) + g.shared - common
    for g in groups
  ]
  return common, groups, sizes


def _first_fit(sizes: Sequence[int], base: int) -> dict[int, list[list[int]]]:
  """Columns -> which documents share a row, the longest first.

  A row has `base` columns, or twice as many as often as its first document
  needs, and what that leaves is for others.
  """
  rows: list[list[int]] = []
  columns: list[int] = []
  left = np.zeros((0,), int)
  for document in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
    fits = np.flatnonzero(left >= sizes[document])
    row = fits[0] if len(fits) else len(rows)
    if row == len(rows):
      needed = prefixes.power_of_two(-(-max(sizes[document], 1) // base))
      rows.append([])
      columns.append(needed * base)
      left = np.append(left, columns[-1])
    rows[row].append(document)
    left[row] -= sizes[document]
  found: dict[int, list[list[int]]] = {}
  for length, members in zip(columns, rows, strict=True):
    found.setdefault(length, []).append(members)
  return found


def _part(
  ids: Sequence[tuple[int, ...]],
  rows: Sequence[Sequence[prefixes.Group]],
  common: int,
  shape: tuple[int, int],
  most: int,
) -> Part:
  """The arrays of some rows, with room for more rows and prompts."""
  tokens, document, branch = np.zeros((3, *shape), np.int32)
  last = np.zeros((shape[0], most), np.int32)
  places = []
  for row, groups in enumerate(rows):
    column = number = 0
    for name, group in enumerate(groups, 1):
      first = ids[group.rows[0]]
      pieces = [first[common : group.shared]]
      pieces += [ids[prompt][group.shared :] for prompt in group.rows]
      for which, piece in enumerate(pieces):
        here = slice(column, column + len(piece))
        tokens[row, here] = piece
        document[row, here] = name
        branch[row, here] = which
        column = here.stop
        if which:
          places.append((group.rows[which - 1], row, number))
          last[row, number] = column - 1
          number += 1
  batch = batches.PackedPrompts(
    tokens=tokens, document=document, branch=branch, last=last
  )
  return Part(places, ids[places[0][0]][:common], batch)
