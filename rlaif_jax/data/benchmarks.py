# SPDX-License-Identifier: Apache-2.0
"""Reads judge benchmarks: prompts with better and worse responses.

`data.benchmark_formats` has the known schemas.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import os
import pathlib
from typing import NamedTuple, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.data import benchmark_formats
from rlaif_jax.data import readers


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(validation.Validated):
  """How benchmark files are read.

  Fields:
    format: a name in `benchmark_formats.FORMATS`, "auto" to recognise one by
      the columns of the first row, or "columns" to read those named below.
    subsets: subsets to evaluate; () takes all.
    sample: number of items of them, drawn by a hash of their ids; 0 takes all.
      Published files are sorted by subset. A larger sample contains a smaller
      one.
    prompt: column of the prompt.
    chosen: column of the better response.
    rejected: column of the worse response.
    subset: column of the subset; "" for none.
    id: column of the id; "" takes a hash of the texts.
  """

  format: str = "auto"
  subsets: tuple[str, ...] = ()
  sample: validation.NonNegativeInt = 0
  prompt: str = "prompt"
  chosen: str = "chosen"
  rejected: str = "rejected"
  subset: str = "subset"
  id: str = "id"

  def __post_init__(self):
    super().__post_init__()
    names = ("auto", "columns", *benchmark_formats.FORMATS)
    if self.format not in names:
      raise ValueError(
        f"BenchmarkConfig.format is {self.format!r}; use one of {names}"
      )


class Benchmark(NamedTuple):
  """The items of a benchmark file, and the name of its format."""

  format: str
  items: list[records.BenchmarkItem]

  @property
  def pairs(self) -> list[records.Preference]:
    """The human labels of all items, in order."""
    return [pair for item in self.items for pair in item.pairs]

  def first(self, count: int) -> Benchmark:
    """Returns the first items; 0 keeps all."""
    return self._replace(items=self.items[: count or None])


def read(
  path: str | os.PathLike,
  config: BenchmarkConfig,
  quarantine: jsonl.Quarantine | None = None,
) -> Benchmark:
  """Reads a .jsonl, .jsonl.gz or .parquet file of a benchmark.

  The chosen response is stored first or second by a hash of the pair's id, so
  that the position says nothing about it. `source` of a pair is the subset.

  Args:
    path: the file.
    config: format and subsets.
    quarantine: receives rows without their columns, with values of another
      type, with equal responses or with an id that occurred before (several
      people may label one pair of preferences). None raises for the first
      such row.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the format is not recognised, a row is bad and `quarantine`
      is None, no row is valid, or a subset is unknown.
  """
  bad = jsonl.Quarantine()
  columns = benchmark_formats.of_columns(
    (config.prompt, config.chosen, config.rejected),
    subset=config.subset,
    identity=config.id,
  )
  table = benchmark_formats.FORMATS | {"columns": columns}
  name, items, seen = config.format, [], set()
  for where, row in readers.read_file(pathlib.Path(path), bad):
    try:
      row = jsonl.row_of(row)
      if name == "auto":
        name = benchmark_formats.recognise(row)
      item = table[name].read(row)
      if name != "preferences" and item.pairs[0].id in seen:
        raise ValueError(f"the id {item.pairs[0].id!r} occurs twice")
    except parsing.ERRORS as error:
      bad.add(where=where, reason=parsing.reason(error), row=row)
      continue
    seen.add(item.pairs[0].id)
    items.append(item)
  if bad.rows and (quarantine is None or not items):
    first = bad.rows[0]
    raise jsonl.bad_line(first["where"], ValueError(first["reason"]))
  if quarantine is not None:
    quarantine.rows += bad.rows
  if not items:
    raise ValueError(f"{path} has no rows; it should have one per prompt")
  items = _selected(items, config.subsets, path)
  return Benchmark(name, _drawn(items, config.sample))


def _selected(
  items: list[records.BenchmarkItem],
  subsets: Sequence[str],
  path: str | os.PathLike,
) -> list[records.BenchmarkItem]:
  """Returns the items of the subsets, or all."""
  counts = collections.Counter(item.subset for item in items)
  for subset in subsets:
    if subset not in counts:
      near = difflib.get_close_matches(subset, counts, n=1, cutoff=0.5)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise ValueError(
        f"BenchmarkConfig.subsets has {subset!r}, and {path} has no such "
        f"subset; it has {dict(counts)}.{hint}"
      )
  return [item for item in items if not subsets or item.subset in subsets]


def _drawn(
  items: list[records.BenchmarkItem], count: int
) -> list[records.BenchmarkItem]:
  """Returns a sample in the order of the file; see `BenchmarkConfig.sample`."""
  if not count:
    return items
  keys = [records.content_id("shuffle", item.pairs[0].id) for item in items]
  chosen = set(sorted(keys)[:count])
  return [item for item, key in zip(items, keys, strict=True) if key in chosen]


AUTO = BenchmarkConfig()
