# SPDX-License-Identifier: Apache-2.0
"""Packs pairs of unequal lengths into rows with little padding.

Packing is NumPy on the host and depends on the pairs only. See
`batches.PackedBatch` for a packed row.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Sequence

from jaxtyping import Int
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import bin_packing


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShape:
  """The capacity of a row: columns, response tokens and pairs."""

  columns: int
  targets: int
  pairs: int


class Lengths(NamedTuple):
  """Tokens of each pair: of the prompt, and of both responses."""

  prompt: Int[np.ndarray, " pairs"]
  responses: Int[np.ndarray, " pairs"]

  @property
  def both(self) -> Int[np.ndarray, " pairs"]:
    """Tokens of prompt and responses."""
    return self.prompt + self.responses


def lengths_of(pairs: batches.PairBatch) -> Lengths:
  """Returns the token counts of an unpacked PairBatch of host arrays."""
  return Lengths(
    np.sum(pairs.texts.prompt_valid, axis=1),
    np.sum(pairs.texts.response_valid, axis=(1, 2)),
  )


def row_shape(lengths: Lengths, *, round_to: int = 32) -> RowShape:
  """Returns the shape of rows that hold the longest pair.

  Responses and pairs get a quarter more than the average of the columns, so
  that columns are the limit.
  """
  longest = int(np.max(lengths.both))
  columns = -(-longest // round_to) * round_to
  share = np.sum(lengths.responses) / np.sum(lengths.both)
  targets = max(int(np.max(lengths.responses)), int(1.25 * share * columns))
  return RowShape(
    columns=columns,
    targets=min(-(-targets // 8) * 8, columns),
    pairs=int(np.ceil(1.25 * columns / np.mean(lengths.both))),
  )


def is_worth_it(pairs: batches.PairBatch) -> bool:
  """Returns whether packing saves at least a tenth of the columns."""
  lengths = lengths_of(pairs)
  sample = Lengths(*(x[:256] for x in lengths))
  shape = row_shape(lengths)
  texts = pairs.texts
  padded = len(sample.prompt) * (
    texts.prompt.shape[1] + 2 * texts.response.shape[2]
  )
  return len(assign(sample, shape)) * shape.columns <= 0.9 * padded


def assign(lengths: Lengths, shape: RowShape) -> list[list[int]]:
  """Returns the pairs of each row, by first-fit decreasing bin packing.

  Raises:
    ValueError: if a pair does not fit into a row.
  """
  need = np.stack(
    [lengths.both, lengths.responses, np.ones_like(lengths.prompt)], axis=1
  )
  capacity = np.array([shape.columns, shape.targets, shape.pairs])
  if np.any(need > capacity):
    worst = need[np.argmax(np.max(need - capacity, axis=1))]
    raise ValueError(
      f"a pair of {worst[0]} tokens, {worst[1]} of them of responses, does not "
      f"fit into a row of {shape}"
    )
  order = np.argsort(-lengths.both, kind="stable")
  return bin_packing.first_fit(need, order, lambda pair: capacity)


def pack_pairs(
  pairs: batches.PairBatch,
  shape: RowShape,
  *,
  multiple: int,
) -> batches.PairBatch:
  """Packs a batch of pairs into rows.

  Args:
    pairs: unpacked host arrays.
    shape: capacity of a row; see `row_shape`.
    multiple: divisor of the number of rows: a multiple of devices and
      microbatches, large enough that few numbers of rows, each of which is
      compiled, occur.

  Returns:
    A packed PairBatch [rows, K].
  """
  groups = assign(lengths_of(pairs), shape)
  count = -(-len(groups) // multiple) * multiple
  responses = 2 * shape.pairs

  def zeros(*columns, dtype=np.int32):
    return np.zeros((count, *columns), dtype)

  texts = batches.PackedBatch(
    tokens=zeros(shape.columns),
    segment_ids=zeros(shape.columns),
    continuation_ids=zeros(shape.columns),
    columns=zeros(shape.targets),
    targets=zeros(shape.targets),
    response_ids=zeros(shape.targets) - 1,
    last=zeros(responses),
  )
  numbers = {"label": pairs.label, "weight": pairs.weight}
  if pairs.ref_log_probs is not None:
    numbers["ref_log_probs"] = pairs.ref_log_probs
  packed = {
    name: zeros(shape.pairs, *values.shape[1:], dtype=np.float32)
    for name, values in numbers.items()
  }
  for row, members in enumerate(groups):
    _fill(texts, row, pairs.texts, members)
    for name, values in numbers.items():
      packed[name][row, : len(members)] = values[members]
  return batches.PairBatch(texts=texts, **packed)


def _fill(
  texts: batches.PackedBatch,
  row: int,
  pairs: batches.GroupBatch,
  members: Sequence[int],
) -> None:
  """Writes the pairs of one row."""
  column = target = 0
  for place, pair in enumerate(members):
    begin = pairs.prompt[pair][pairs.prompt_valid[pair]]
    ids = [begin] + [
      pairs.response[pair, side][pairs.response_valid[pair, side]]
      for side in (0, 1)
    ]
    prompt_end = column + len(begin)
    for branch, part in enumerate(ids):
      here = slice(column, column + len(part))
      texts.tokens[row, here] = part
      texts.segment_ids[row, here] = place + 1
      texts.continuation_ids[row, here] = branch
      if branch:
        span = slice(target, target + len(part))
        texts.targets[row, span] = part
        texts.response_ids[row, span] = 2 * place + branch - 1
        # Predicted from the column before, the first from the prompt's last.
        texts.columns[row, span] = np.arange(here.start, here.stop) - 1
        texts.columns[row, span.start : span.start + min(len(part), 1)] = (
          prompt_end - 1
        )
        end = here.stop if len(part) else prompt_end
        texts.last[row, 2 * place + branch - 1] = end - 1
        target = span.stop
      column = here.stop
