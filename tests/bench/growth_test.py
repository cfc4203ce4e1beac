# SPDX-License-Identifier: Apache-2.0
"""Memory grows with the chosen size, and chunked logits save memory."""

from __future__ import annotations

import json

import pytest

from rlaif_jax.bench import growth
from rlaif_jax.bench import roofline
from rlaif_jax.engine import scoring
from tests import testing

BASE = growth.Point(rows=2, length=8, model=testing.tiny_decoder(40))
MACHINE = roofline.Machine(flops=1e9, bandwidth=1e9)


def test_one_thing_changes_at_a_time():
  wide = BASE.with_value("rows", 5)
  assert (wide.rows, wide.length, wide.model) == (5, 8, BASE.model)
  assert BASE.with_value("length", 12).texts().shape == (2, 12)
  deep = BASE.with_value("layers", 3).model
  assert deep.num_layers == 3 and deep.vocab_size == 40
  assert BASE.with_value("vocabulary", 50).model.vocab_size == 50


@pytest.mark.parametrize("work", growth.WORKS)
def test_the_roofline_grows_with_the_arithmetic(work):
  def least(axis, value):
    _, phases = growth.WORKS[work](BASE.with_value(axis, value))
    return sum(phase.flops * phase.times for phase in phases)

  # The optimizer's work does not grow with the rows.
  fixed = 2 * least("rows", 2) - least("rows", 4)
  if work == "sampling":
    assert fixed == 0
  else:
    assert 0 < fixed < least("rows", 2)
  assert least("layers", 4) > 1.5 * least("layers", 2)
  assert least("vocabulary", 400) > least("vocabulary", 40)


def test_all_is_measured_printed_and_drawn(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(roofline, "measure", lambda: MACHINE)
  monkeypatch.setattr(
    growth,
    "compare_chunks",
    lambda size, **_: {"work": "log-probs", "size": size},
  )
  path = tmp_path / "growth.svg"
  rows = growth.run(BASE, {"rows": (1, 2)}, (9,), repetitions=1, svg=str(path))
  lines = capsys.readouterr().out.splitlines()
  assert [json.loads(line) for line in lines] == [
    {"bench": "growth", **row} for row in rows
  ]
  assert [row.get("value") for row in rows] == [1, 2, 1, 2, None]
  for row in rows[:-1]:
    share = row["roofline_us_per_token"] / row["us_per_token"]
    assert row["share"] == pytest.approx(share, rel=0.05, abs=0.01)
  assert path.read_text().startswith("<svg")


def test_chunks_of_logits_need_less_memory():
  usual = scoring.LOGITS_AT_ONCE
  few, many = (
    growth.compare_chunks(
      size, rows=4, columns=32, width=4, at_once=2**14, repetitions=1
    )
    for size in (1024, 4096)
  )
  assert many["whole_mb"] > 3 * few["whole_mb"]
  assert many["parts_mb"] < 0.7 * many["whole_mb"]
  assert many["tokens"] == 128 and many["time_ratio"] > 0
  assert scoring.LOGITS_AT_ONCE == usual
