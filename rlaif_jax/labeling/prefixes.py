# SPDX-License-Identifier: Apache-2.0
"""Prompts that begin alike are read once: which tokens to share, and how.

The prompts of a judge share the preamble and the exemplars; the two orders of
a pair share the context as well, and the texts that a likelihood judge
compares the whole prompt. A causal model's state after a prefix does not
depend on what follows, so sharing changes no answer.
"""

from __future__ import annotations

import dataclasses
from typing import Iterator, Sequence

import numpy as np

from rlaif_jax.engine import prefix_sharing


@dataclasses.dataclass(frozen=True)
class Part:
  """One device call: the prompts that it answers, and what it reads.

  `batch` goes on after `common`, which all parts of a call have.
  """

  rows: list[int]
  common: tuple[int, ...]
  batch: prefix_sharing.SharedPrompts


@dataclasses.dataclass
class Group:
  """Prompts with the same first `shared` tokens."""

  rows: list[int]
  shared: int


def bucket_length(tokens: int, step: int) -> int:
  """The padded length of a prompt: few of them, and at most a fifth of waste.

  Multiples of `step` up to eight of them, of twice that up to sixteen, and so
  on, so that long prompts do not compile a program for each length.
  """
  while tokens > 8 * step:
    step *= 2
  return -(-max(tokens, 1) // step) * step


def common_row(
  common: Sequence[int], *, bucket: int
) -> tuple[np.ndarray, np.ndarray]:
  """Tokens and valid [1, C] of what all begin with; C has few values."""
  return _pad([common], -(-max(len(common), 1) // bucket) * bucket, 1)


def share(
  ids: Sequence[Sequence[int]],
  own: Sequence[int],
  *,
  batch_size: int,
  bucket: int,
) -> Iterator[Part]:
  """Batches of prompts, in an order that depends on their tokens alone.

  Args:
    ids: tokens of each prompt, with the text after it if that is scored.
    own: how many of a prompt's last tokens are not shared, at least 1.
    batch_size: prompts of a batch, at most.
    bucket: lengths are padded to multiples of about this many tokens, so that
      few programs are compiled; fewer tokens than half of it are not worth
      sharing. What is common to all is cut to a multiple of a quarter of it,
      so that the prompts of a run, whose contexts may by chance begin alike,
      have the same in each call.

  Raises:
    ValueError: `own` leaves a prompt nothing to read, or is below 1.
  """
  for row, (tokens, count) in enumerate(zip(ids, own, strict=True)):
    if not 1 <= count <= len(tokens):
      raise ValueError(
        f"prompt {row} has {len(tokens)} tokens, of which {count} are its own; "
        "at least 1 and at most all of them can be"
      )
  heads = [tuple(t[: len(t) - n]) for t, n in zip(ids, own, strict=True)]
  if not heads:
    return
  common = common_length(heads, bucket)
  groups = groups_of(heads, common, bucket // 2, batch_size)

  def sizes(group: Group) -> tuple[int, int]:
    longest = max(len(ids[row]) for row in group.rows)
    return (
      bucket_length(group.shared - common, 2 * bucket),
      bucket_length(longest - group.shared, max(bucket // 2, 1)),
    )

  groups.sort(key=sizes)
  batch: list[Group] = []
  for group in groups:
    is_full = sum(len(g.rows) for g in batch) + len(group.rows) > batch_size
    if batch and (is_full or sizes(group)[0] != sizes(batch[0])[0]):
      yield _part(ids, batch, common, sizes(batch[-1]), batch_size)
      batch = []
    batch.append(group)
  yield _part(ids, batch, common, sizes(batch[-1]), batch_size)


def common_length(heads: Sequence[Sequence[int]], bucket: int) -> int:
  """How many tokens all of them begin with; see `share`."""
  step = max(bucket // 4, 1)
  return _alike(min(heads), max(heads)) // step * step


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
  """How many first tokens are the same."""
  for count, (x, y) in enumerate(zip(a, b, strict=False)):
    if x != y:
      return count
  return min(len(a), len(b))


def groups_of(
  heads: Sequence[tuple[int, ...]], common: int, worth: int, batch_size: int
) -> list[Group]:
  """Groups prompts so that the fewest tokens are read, going by their order.

  A prompt that joins a group saves what they share beyond `common`; the group
  then shares no more than that, which costs its other members the rest.
  """
  groups: list[Group] = []
  for row in sorted(range(len(heads)), key=heads.__getitem__):
    if groups and len(groups[-1].rows) < batch_size:
      last = groups[-1]
      alike = _alike(heads[last.rows[-1]][: last.shared], heads[row])
      lost = (len(last.rows) - 1) * (last.shared - alike)
      if alike - common - lost >= max(worth, 1):
        last.rows.append(row)
        last.shared = alike
        continue
    groups.append(Group([row], len(heads[row])))
  return groups


def _part(
  ids: Sequence[Sequence[int]],
  groups: Sequence[Group],
  common: int,
  lengths: tuple[int, int],
  batch_size: int,
) -> Part:
  """Pads groups to a batch of few possible shapes, everything on the left."""
  rows = [row for group in groups for row in group.rows]
  first = ids[rows[0]]
  prefixes = [ids[g.rows[0]][common : g.shared] for g in groups]
  suffixes = [ids[row][g.shared :] for g in groups for row in g.rows]
  owner = [i for i, group in enumerate(groups) for _ in group.rows]
  height = min(power_of_two(len(rows)), batch_size)
  prefix, prefix_valid = _pad(
    prefixes, lengths[0], min(power_of_two(len(groups)), batch_size)
  )
  suffix, suffix_valid = _pad(suffixes, lengths[1], height)
  batch = prefix_sharing.SharedPrompts(
    group_tokens=prefix,
    group_valid=prefix_valid,
    group_ids=np.asarray(owner + [0] * (height - len(rows)), np.int32),
    suffix=suffix,
    suffix_valid=suffix_valid,
  )
  return Part(rows, tuple(first[:common]), batch)


def power_of_two(count: int) -> int:
  """The least that is no smaller: few shapes, little waste."""
  return 1 << (count - 1).bit_length()


def _pad(
  rows: Sequence[Sequence[int]], length: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
  tokens = np.zeros((height, length), np.int32)
  valid = np.zeros((height, length), bool)
  for i, row in enumerate(rows):
    if row:
      tokens[i, length - len(row) :] = row
      valid[i, length - len(row) :] = True
  return tokens, valid
