# SPDX-License-Identifier: Apache-2.0
"""Groups prompts by shared prefixes, so that each prefix is read once.

The prompts of a judge share the preamble and the exemplars; the two orders of
a pair share the context as well, and the texts that a likelihood judge
compares share the whole prompt. A causal model's state after a prefix does not
depend on what follows, so the results are the same.
"""

from __future__ import annotations

import dataclasses
from typing import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

from rlaif_jax.engine import prefix_sharing


@dataclasses.dataclass(frozen=True)
class SharedCall:
  """The prompts of one device call.

  Attributes:
    rows: index of each prompt.
    prefix: token ids that all prompts of all calls start with.
    prompts: the prompts without the prefix.
  """

  rows: list[int]
  prefix: tuple[int, ...]
  prompts: prefix_sharing.SharedPrompts


@dataclasses.dataclass
class PromptGroup:
  """Indices of prompts that share their first `shared` tokens."""

  rows: list[int]
  shared: int


def bucket_length(tokens: int, step: int) -> int:
  """Returns the padded length of a prompt.

  Lengths are multiples of `step` up to 8 steps, of 2 steps up to 16, of 4
  steps up to 32, and so on. There are few of them, and at most a fifth of a
  long prompt is padding.
  """
  while tokens > 8 * step:
    step *= 2
  return -(-max(tokens, 1) // step) * step


def prefix_row(
  prefix: Sequence[int], *, bucket: int
) -> tuple[Int[np.ndarray, "1 C"], Bool[np.ndarray, "1 C"]]:
  """Returns tokens and valid of a prefix; C is a multiple of `bucket`."""
  return _pad([prefix], -(-max(len(prefix), 1) // bucket) * bucket, 1)


def share_prefixes(
  ids: Sequence[Sequence[int]],
  own: Sequence[int],
  *,
  batch_size: int,
  bucket: int,
) -> Iterator[SharedCall]:
  """Yields batches of prompts in an order that depends on their tokens only.

  Args:
    ids: tokens of each prompt, with the text after it if that is scored.
    own: number of a prompt's last tokens that are not shared, at least 1.
    batch_size: maximum number of prompts of a batch.
    bucket: lengths are padded to multiples of about this many tokens, so that
      few programs are compiled. Fewer than half as many tokens are not shared.
      The prefix of all prompts is cut to a multiple of a quarter of it, so that
      it is the same in each call of a run whose contexts start alike by chance.

  Raises:
    ValueError: `own` exceeds a prompt's length or is below 1.
  """
  for row, (tokens, count) in enumerate(zip(ids, own, strict=True)):
    if not 1 <= count <= len(tokens):
      raise ValueError(
        f"prompt {row} has {len(tokens)} tokens and own is {count}; it must be "
        "at least 1 and at most the number of tokens"
      )
  heads = [tuple(t[: len(t) - n]) for t, n in zip(ids, own, strict=True)]
  if not heads:
    return
  prefix = prefix_length(heads, bucket)
  groups = group_by_prefix(heads, prefix, bucket // 2, batch_size)

  def sizes(group: PromptGroup) -> tuple[int, int]:
    longest = max(len(ids[row]) for row in group.rows)
    return (
      bucket_length(group.shared - prefix, 2 * bucket),
      bucket_length(longest - group.shared, max(bucket // 2, 1)),
    )

  groups.sort(key=sizes)
  batch: list[PromptGroup] = []
  for group in groups:
    is_full = sum(len(g.rows) for g in batch) + len(group.rows) > batch_size
    if batch and (is_full or sizes(group)[0] != sizes(batch[0])[0]):
      yield _call(ids, batch, prefix, sizes(batch[-1]), batch_size)
      batch = []
    batch.append(group)
  yield _call(ids, batch, prefix, sizes(batch[-1]), batch_size)


def prefix_length(heads: Sequence[Sequence[int]], bucket: int) -> int:
  """Returns the length of the prefix of all heads; see `share_prefixes`."""
  step = max(bucket // 4, 1)
  return _num_equal(min(heads), max(heads)) // step * step


def _num_equal(a: Sequence[int], b: Sequence[int]) -> int:
  """Returns how many first tokens are equal."""
  for count, (x, y) in enumerate(zip(a, b, strict=False)):
    if x != y:
      return count
  return min(len(a), len(b))


def group_by_prefix(
  heads: Sequence[tuple[int, ...]],
  prefix: int,
  min_shared: int,
  batch_size: int,
) -> list[PromptGroup]:
  """Groups prompts so that few tokens are read, greedily in sorted order.

  A prompt that joins a group saves the tokens that they share beyond `prefix`.
  The group then shares no more than these, so its other members read the rest
  themselves. The prompt joins if that saves at least `min_shared` tokens.
  """
  groups: list[PromptGroup] = []
  for row in sorted(range(len(heads)), key=heads.__getitem__):
    if groups and len(groups[-1].rows) < batch_size:
      last = groups[-1]
      shared = _num_equal(heads[last.rows[-1]][: last.shared], heads[row])
      lost = (len(last.rows) - 1) * (last.shared - shared)
      if shared - prefix - lost >= max(min_shared, 1):
        last.rows.append(row)
        last.shared = shared
        continue
    groups.append(PromptGroup([row], len(heads[row])))
  return groups


def _call(
  ids: Sequence[Sequence[int]],
  groups: Sequence[PromptGroup],
  prefix: int,
  lengths: tuple[int, int],
  batch_size: int,
) -> SharedCall:
  """Left-pads groups to a batch of one of few shapes."""
  rows = [row for group in groups for row in group.rows]
  first = ids[rows[0]]
  shared = [ids[g.rows[0]][prefix : g.shared] for g in groups]
  suffixes = [ids[row][g.shared :] for g in groups for row in g.rows]
  group_ids = [i for i, group in enumerate(groups) for _ in group.rows]
  height = min(power_of_two(len(rows)), batch_size)
  group_tokens, group_valid = _pad(
    shared, lengths[0], min(power_of_two(len(groups)), batch_size)
  )
  suffix, suffix_valid = _pad(suffixes, lengths[1], height)
  prompts = prefix_sharing.SharedPrompts(
    group_tokens=group_tokens,
    group_valid=group_valid,
    group_ids=np.asarray(group_ids + [0] * (height - len(rows)), np.int32),
    suffix=suffix,
    suffix_valid=suffix_valid,
  )
  return SharedCall(rows, tuple(first[:prefix]), prompts)


def power_of_two(count: int) -> int:
  """Returns the smallest power of two that is >= count."""
  return 1 << (count - 1).bit_length()


def pad_prompts(
  ids: Sequence[Sequence[int]], limit: int, *, batch_size: int, bucket: int
) -> Iterator[
  tuple[list[int], Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]
]:
  """Yields (rows, tokens, valid) of whole left-padded prompts, with few L.

  Args:
    ids: tokens of each prompt.
    limit: maximum L, at least the longest prompt.
    batch_size: maximum number of prompts of a batch.
    bucket: see `bucket_length`.
  """
  buckets: dict[int, list[int]] = {}
  for row, tokens in enumerate(ids):
    length = min(bucket_length(len(tokens), bucket), limit)
    buckets.setdefault(length, []).append(row)
  for length in sorted(buckets):
    members = buckets[length]
    for begin in range(0, len(members), batch_size):
      rows = members[begin : begin + batch_size]
      height = min(power_of_two(len(rows)), batch_size)
      yield rows, *_pad([ids[row] for row in rows], length, height)


def _pad(
  rows: Sequence[Sequence[int]], length: int, height: int
) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
  tokens = np.zeros((height, length), np.int32)
  valid = np.zeros((height, length), bool)
  for i, row in enumerate(rows):
    if row:
      tokens[i, length - len(row) :] = row
      valid[i, length - len(row) :] = True
  return tokens, valid
