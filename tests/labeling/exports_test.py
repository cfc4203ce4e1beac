# SPDX-License-Identifier: Apache-2.0
"""Labels as Parquet."""

from __future__ import annotations

import json

import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import exports


def test_every_row_says_how_it_was_made(tmp_path):
  pytest.importorskip("pyarrow")
  from pyarrow import parquet

  labels = [
    records.Preference(
      id=f"p{i}",
      context="é",
      first="a",
      second="b",
      p_first=i / 8,
      labeler="l",
      p_orders=(0.25, 0.5)[: i % 3],
      rationales=("why",) * (i % 2),
    )
    for i in range(8)
  ]
  path = tmp_path / "x.parquet"
  assert exports.write_parquet(path, iter(labels), {"template": "t"}) == 8
  rows = parquet.read_table(path).to_pylist()
  made = [json.loads(row.pop("provenance")) for row in rows]
  assert made == [{"template": "t"}] * 8
  assert [records.from_row(records.Preference, row) for row in rows] == labels
  assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]
