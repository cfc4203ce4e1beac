# SPDX-License-Identifier: Apache-2.0
"""Prompts of unequal lengths side by side in rows, for one or two programs.

What prompts share is read once (`prefixes`), and what is left of them fills
rows of few lengths, so texts of any lengths compile next to nothing and little
of what is read is padding.
"""

from __future__ import annotations

import dataclasses
from typing import Iterator, Sequence

import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import bin_packing
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
  batch: batches.PackedBatch

  def columns(self, bucket: int) -> np.ndarray:
    """Returns the columns [N, W] of its prompts, in the order of `places`.

    They are counted through all rows, and -1 after a prompt's last. W is padded
    by `prefixes.bucket_length(W, bucket)`, and N to eights with prompts that
    have no columns.
    """
    document, branch, last = map(
      np.asarray,
      (
        self.batch.segment_ids,
        self.batch.continuation_ids,
        self.batch.columns,
      ),
    )
    columns = []
    for _, row, number in self.places:
      end = last[row, number]
      mine = document[row] == document[row, end]
      mine &= (branch[row] == 0) | (branch[row] == branch[row, end])
      columns.append(row * document.shape[1] + np.flatnonzero(mine))
    shape = (
      prefixes.bucket_length(len(columns), 8),
      prefixes.bucket_length(max(map(len, columns)), bucket),
    )
    result = np.full(shape, -1, np.int32)
    for i, prompt in enumerate(columns):
      result[i, : len(prompt)] = prompt
    return result


@dataclasses.dataclass(frozen=True)
class Documents:
  """Prompts that begin alike, together.

  ids: tokens of each prompt.
  common: how many tokens all prompts begin with.
  groups: who is a branch of which document.
  sizes: columns of each document, without what is common.
  bucket: see `prefixes.share`; rows are some multiple of it long.
  """

  ids: list[tuple[int, ...]]
  common: int
  groups: list[prefixes.Group]
  sizes: list[int]
  bucket: int

  @property
  def differ(self) -> bool:
    """In length, so that packing is worth it.

    Those of one length, or nearly, are padded little by `prefixes.share`, where
    none looks at the columns of another in vain.
    """
    return bool(self.sizes) and (
      max(self.sizes) > 1.25 * sum(self.sizes) / len(self.sizes)
    )


def documents_of(ids: Sequence[Sequence[int]], *, bucket: int) -> Documents:
  """The documents of prompts, each of at least one token."""
  ids = [tuple(tokens) for tokens in ids]
  heads = [tokens[:-1] for tokens in ids]
  common = prefixes.common_length(heads, bucket) if heads else 0
  groups = prefixes.groups_of(heads, common, _WORTH, _BRANCHES)
  sizes = [
    sum(len(ids[row]) - g.shared for row in g.rows) + g.shared - common
    for g in groups
  ]
  return Documents(ids, common, groups, sizes, bucket)


def pack(documents: Documents, *, batch_size: int) -> Iterator[Part]:
  """Batches of packed prompts, laid out by their tokens alone.

  Args:
    documents: of the prompts.
    batch_size: prompts of a batch, about; the number of rows is a power of
      two, so that few programs are compiled.
  """
  if not documents.sizes:
    return
  rows = _rows(documents)
  for columns in sorted(rows):
    alike = [[documents.groups[g] for g in row] for row in rows[columns]]
    counts = [sum(len(group.rows) for group in row) for row in alike]
    most = prefixes.power_of_two(max(counts))
    # Rows of a batch: so many that they have about `batch_size` prompts.
    each = sum(counts) / len(alike)
    height = prefixes.power_of_two(max(1, round(batch_size / each)))
    for begin in range(0, len(alike), height):
      here = alike[begin : begin + height]
      shape = (min(height, prefixes.power_of_two(len(here))), columns)
      yield _part(documents, here, shape, most)


def _rows(documents: Documents) -> dict[int, list[list[int]]]:
  """Columns -> which documents share a row, the longest first.

  A row has room for about two documents, so that they fill it, or twice that
  as often as its first document needs, and what that leaves is for others.
  """
  sizes = documents.sizes
  base = prefixes.bucket_length(
    2 * sum(sizes) // len(sizes), 8 * documents.bucket
  )

  def columns(document: int) -> int:
    return base * prefixes.power_of_two(-(-max(sizes[document], 1) // base))

  found: dict[int, list[list[int]]] = {}
  for row in bin_packing.first_fit(
    np.asarray(sizes)[:, None],
    sorted(range(len(sizes)), key=lambda i: -sizes[i]),
    lambda document: [columns(document)],
  ):
    found.setdefault(columns(row[0]), []).append(row)
  return found


def _part(
  documents: Documents,
  rows: Sequence[Sequence[prefixes.Group]],
  shape: tuple[int, int],
  most: int,
) -> Part:
  """The arrays of some rows, with room for more rows and prompts."""
  ids, common = documents.ids, documents.common
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
  batch = batches.PackedBatch(
    tokens=tokens, segment_ids=document, continuation_ids=branch, columns=last
  )
  return Part(places, ids[places[0][0]][:common], batch)
