# SPDX-License-Identifier: Apache-2.0
"""A judge against human labels: two parts of the pairs, and its speed."""

from __future__ import annotations

import dataclasses

import pytest

from rlaif_jax.core import records
from rlaif_jax.evaluation import judge_alignment

HUMANS = [
  records.Preference(
    id=f"p{i}",
    context=f"doc {i}",
    first="aa",
    second="b",
    p_first=float(i % 2),
    labeler="human",
    source="even" if i % 2 else "odd",
  )
  for i in range(200)
]


def test_the_parts_depend_on_the_texts_alone():
  selection, rest = judge_alignment.split_pairs(HUMANS, 0.25)
  assert len(selection) + len(rest) == 200 and 25 < len(selection) < 75
  renamed = [dataclasses.replace(human, id="x") for human in HUMANS]
  other, _ = judge_alignment.split_pairs(renamed[::-1], 0.25)
  assert [h.context for h in other[::-1]] == [h.context for h in selection]
  assert judge_alignment.split_pairs(HUMANS, 0.0) == ([], HUMANS)
  wider, _ = judge_alignment.split_pairs(HUMANS, 0.5)
  assert set(h.id for h in selection) < set(h.id for h in wider)


def test_a_judge_that_always_prefers_the_first():
  labels = [
    dataclasses.replace(h, p_first=0.9, p_orders=(0.9, 0.9)) for h in HUMANS
  ]
  labels[3] = dataclasses.replace(labels[3], cut_tokens=7)
  row = judge_alignment.measure(labels, HUMANS, 0.5)
  counts = [row[k]["accuracy"]["n"] for k in ("selection", "alignment")]
  assert sum(counts) == 200
  assert row["kinds"]["even"]["accuracy"]["value"] == 1.0
  assert row["kinds"]["odd"]["accuracy"]["value"] == 0.0
  kinds = [row["kinds"][k]["accuracy"]["n"] for k in ("even", "odd")]
  assert sum(kinds) == counts[1]
  assert row["length"]["judge"]["value"] == 1.0  # The first one is longer.
  assert row["calibration"]["error"]["n"] == 200
  assert row["truncated"] == 1


def test_a_part_without_labels_has_no_alignment():
  row = judge_alignment.measure([], HUMANS, 0.5)
  assert row["selection"] is None and row["alignment"] is None
  selection, _ = judge_alignment.split_pairs(HUMANS, 0.5)
  row = judge_alignment.measure(selection, HUMANS, 0.5)
  assert row["selection"]["accuracy"]["value"] == 1.0
  assert row["alignment"] is None


def test_seconds_are_those_of_all_runs(tmp_path):
  path = tmp_path / "seconds.jsonl"
  assert judge_alignment.seconds_per_label(path, "a", 9.0, 0) is None
  assert judge_alignment.seconds_per_label(path, "a", 6.0, 3) == 2.0
  assert judge_alignment.seconds_per_label(path, "b", 1.0, 1) == 1.0
  assert judge_alignment.seconds_per_label(path, "a", 2.0, 1) == 2.0
  assert judge_alignment.seconds_per_label(path, "a", 99.0, 0) == 2.0
  assert judge_alignment.seconds_per_label(path, "a", 4.0, 2) == pytest.approx(
    2.0
  )
