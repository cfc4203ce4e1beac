# SPDX-License-Identifier: Apache-2.0
"""Reads the pairs of a labelling job from a file, in shards."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Iterator

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import validation


def shard_of(pair: records.Pair, count: int) -> int:
  """Returns the shard in [0, count) of a pair, by a hash of its texts."""
  name = records.content_id(pair.context, pair.first, pair.second)
  return int(name, 16) % count


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairSource(validation.Validated):
  """A JSONL file of pairs, such as pairs.jsonl of the `sample` job.

  Preferences also work, such as a prepared split of `tldr_comparisons`; their
  labels are ignored.

  Fields:
    pairs_file: path of a .jsonl or .jsonl.gz file.
    limit: number of pairs to read from the start of the file; 0 reads all.
    shard: "k/n" reads the k-th of n shards, counted from 0, so that n processes
      share the work. The shard of a pair depends on its texts only.
  """

  pairs_file: str
  limit: validation.NonNegativeInt = 0
  shard: str = "0/1"

  def __post_init__(self):
    super().__post_init__()
    number, _, count = self.shard.partition("/")
    is_shard = number.isdecimal() and count.isdecimal()
    if not is_shard or int(number) >= int(count):
      raise ValueError(
        f"PairSource.shard is {self.shard!r}; use 'k/n' with k from 0 to "
        "n - 1, such as '0/4'"
      )

  def read(
    self, quarantine: jsonl.Quarantine | None = None
  ) -> Iterator[records.Pair]:
    """Yields the pairs; memory use does not depend on the size of the file.

    Args:
      quarantine: receives lines that are not pairs. None raises for the first
        such line.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: a line is not a pair and `quarantine` is None.
    """
    number, _, count = self.shard.partition("/")
    rows = jsonl.stream_rows(self.pairs_file, records.pair_of_row, quarantine)
    for pair in itertools.islice(rows, self.limit or None):
      if shard_of(pair, int(count)) == int(number):
        yield pair

  def read_valid(self) -> Iterator[records.Pair]:
    """Yields the pairs and skips lines that are not pairs."""
    return self.read(jsonl.Quarantine())

  def count(self, quarantine: jsonl.Quarantine) -> int:
    """Counts the pairs and quarantines lines that are not pairs.

    Raises:
      ValueError: there are no pairs.
    """
    count = sum(1 for _ in self.read(quarantine))
    if not count:
      raise ValueError(
        f"{self.pairs_file} has no pairs; run the sample job first"
      )
    return count
