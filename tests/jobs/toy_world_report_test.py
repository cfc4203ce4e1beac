# SPDX-License-Identifier: Apache-2.0
"""A page and tables of a folder of rigs."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.jobs import toy_world_report


def test_all_rigs_of_a_folder_are_on_one_page(tmp_path):
  for name, gold in (("rig_a", 1.0), ("rig_b", 2.0)):
    rows = [
      {"arm": "one", "seed": s, "stage": "policy", "step": i, "kl": 3.0 * i}
      | {"gold": gold * i, "proxy": 1.0, "tokens": 4.0}
      for s in (0, 1)
      for i in range(3)
    ]
    jsonl.write_text(
      tmp_path / name / "rows.jsonl",
      "".join(jsonl.dump_row(row) + "\n" for row in rows),
    )
  done = toy_world_report.run(
    output_dir=str(tmp_path / "report"), runs_dir=str(tmp_path)
  )
  assert done["rigs"] == ["rig_a", "rig_b"]
  text = (tmp_path / "report" / "tables.md").read_text()
  assert "## rig_a: Policies" in text and "| 4.00 ± 0.00 |" in text
  page = (tmp_path / "report" / "report.html").read_text()
  assert "rig_b" in page and "<svg" in page


def test_an_empty_folder_is_named(tmp_path):
  with pytest.raises(ValueError, match="rows.jsonl"):
    toy_world_report.run(
      output_dir=str(tmp_path), runs_dir=str(tmp_path / "none")
    )
