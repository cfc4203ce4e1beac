# SPDX-License-Identifier: Apache-2.0
"""Annotations as rankings, preferences, harmless rates and labels."""

from __future__ import annotations

import json

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import rankings
from rlaif_jax.rating import annotations
from rlaif_jax.rating import exports

ITEM = annotations.Item(
  id="i", context="c", names=("a", "b", "d"), responses=("x", "y", "y")
)


def annotate(rater, *picks):
  return annotations.Annotation(
    rater=rater, item="i", picks=picks, final=True, version=1
  )


def test_each_two_different_responses_are_a_preference():
  labels = exports.preferences(annotate("ann", "b", "a", "d"), ITEM)
  found = [(label.first, label.second, label.p_first) for label in labels]
  assert found == [("x", "y", 0.0), ("x", "y", 1.0)]  # a, b and a, d
  assert {label.labeler for label in labels} == {"human:ann"}
  pair = annotations.Item(
    id="p", context="c", names=("first", "second"), responses=("x", "y")
  )
  (label,) = exports.preferences(annotate("ann", "first", "second"), pair)
  assert label.id == "p" and label.p_first == 1.0


def test_labels_are_the_mean_over_raters(tmp_path):
  rows = [annotate("ann", "a", "b", "d"), annotate("bob", "b", "a", "d")]
  exports.write(tmp_path, rows, {"i": ITEM}, "rank")
  labels = jsonl.read_records(records.Preference, tmp_path / "labels.jsonl")
  assert [label.p_first for label in labels] == [0.5, 1.0]
  assert labels[0].labeler == "human:ann,human:bob"
  orders = jsonl.read_records(rankings.Ranking, tmp_path / "rankings.jsonl")
  assert [row.order for row in orders] == [("a", "b", "d"), ("b", "a", "d")]
  summary = exports.summarize(rows, {"i": ITEM}, "rank")
  assert summary["raters"] == {"ann": 1, "bob": 1}
  assert summary["ranked_first"]["a"]["value"] == 0.5
  assert summary["ranked_first"]["d"]["value"] == 0.0


def test_harmful_ones_are_rates(tmp_path):
  rows = [annotate("ann", "a"), annotate("bob")]
  exports.write(tmp_path, rows, {"i": ITEM}, "harmful")
  lines = (tmp_path / "harmless.jsonl").read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert [row["harmless"] for row in found] == [False] + [True] * 5
  summary = exports.summarize(rows, {"i": ITEM}, "harmful")
  rates = {row["policy"]: row["rate"]["value"] for row in summary["harmless"]}
  assert rates == {"a": 0.5, "b": 1.0, "d": 1.0}


def test_the_store_gets_each_label_once(tmp_path):
  rows = [annotate("ann", "a", "b", "d")]
  for _ in range(2):
    exports.add_to_store(str(tmp_path), rows, {"i": ITEM}, "Which?")
  rows.append(annotate("bob", "b", "a", "d"))
  exports.add_to_store(str(tmp_path), rows, {"i": ITEM}, "Which?")
  lines = (tmp_path / "people.jsonl").read_text().splitlines()
  chunks = [json.loads(line) for line in lines]
  assert [c["judge"]["backend"] for c in chunks] == ["human:ann", "human:bob"]
  # Both preferences are of the texts "x" and "y": they share one label.
  assert [len(chunk["labels"]) for chunk in chunks] == [2, 2]
