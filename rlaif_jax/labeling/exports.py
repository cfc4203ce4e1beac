# SPDX-License-Identifier: Apache-2.0
"""Writes labels as a Parquet table, with the provenance in each row."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Iterable

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import store

_ROWS = 10_000  # rows of a row group, held in memory


def write_parquet(
  path: str | os.PathLike,
  labels: Iterable[records.Preference],
  provenance: records.Row,
) -> int:
  """Writes one label per row, atomically; returns the number of rows.

  Columns are the fields of `records.Preference` and `provenance`, the same
  JSON object in every row (dictionary-encoded, so it costs a few bytes).

  Raises:
    ImportError: pyarrow is not installed; install the extra [data].
  """
  import pyarrow
  from pyarrow import parquet

  types = {
    "str": pyarrow.string(),
    "float": pyarrow.float64(),
    "int": pyarrow.int64(),
    "tuple[float, ...]": pyarrow.list_(pyarrow.float64()),
    "tuple[str, ...]": pyarrow.list_(pyarrow.string()),
  }
  columns = [
    (field.name, types[field.type])
    for field in dataclasses.fields(records.Preference)
  ]
  schema = pyarrow.schema([*columns, ("provenance", pyarrow.string())])
  source = json.dumps(dict(provenance), sort_keys=True)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = jsonl.partial_of(path)
  count = 0
  with parquet.ParquetWriter(partial, schema) as writer:
    for batch in store.batched(labels, _ROWS):
      rows = [{**records.to_row(row), "provenance": source} for row in batch]
      writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
      count += len(rows)
  os.replace(partial, path)
  return count
