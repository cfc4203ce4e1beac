# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.labeling.store."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import subprocess
import sys

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import judge
from rlaif_jax.labeling import store
from tests import testing

CONFIG = judge.JudgeConfig()


def make_pairs(count=10):
  return [
    records.Pair(
      id=f"p{i}", context=f"doc é {i % 7}", first="a" * (i % 7), second="bb\n"
    )
    for i in range(count)
  ]


def batch_dependent(prompt, option):
  """Log-probs as odd as those of a float32 matrix product."""
  return -1.0 - math.sin(len(prompt) * 0.37 + int(option)) ** 2


class Asker:
  """Labels pairs, shifting p a little with the size of the batch."""

  def __init__(self):
    self.asked = []

  def __call__(self, pairs):
    self.asked.append([pair.id for pair in pairs])
    size = len(pairs)
    backend = testing.ScriptedBackend(
      lambda p, o: batch_dependent(p, o) + 1e-7 * size * int(o)
    )
    return judge.judge_pairs(pairs, backend, CONFIG)


def open_store(path):
  return store.LabelStore(path, fingerprint=CONFIG.fingerprint("scripted"))


def export(directory):
  out = directory / "labels.jsonl"
  open_store(directory / "store.jsonl").export(out, make_pairs())
  return out.read_bytes()


@pytest.fixture(name="whole")
def fixture_whole(tmp_path):
  """An uninterrupted run: (bytes of the store, bytes of the export)."""
  directory = tmp_path / "whole"
  labels = open_store(directory / "store.jsonl")
  labels.fill(make_pairs(), Asker(), chunk_size=3)
  return (directory / "store.jsonl").read_bytes(), export(directory)


def test_a_kill_after_any_byte_resumes_to_the_same_bytes(tmp_path, whole):
  data, exported = whole
  ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
  cuts = {0, 1, len(data)} | set(range(0, len(data), 97))
  cuts |= {end + step for end in ends for step in (-1, 0, 1)} - {len(data) + 1}
  for cut in sorted(cuts):
    directory = tmp_path / str(cut)
    directory.mkdir()
    (directory / "store.jsonl").write_bytes(data[:cut])
    asker = Asker()
    labels = open_store(directory / "store.jsonl")
    labels.fill(make_pairs(), asker, chunk_size=3)
    assert (directory / "store.jsonl").read_bytes() == data
    assert export(directory) == exported
    # Only chunks that were not written to their end are asked.
    assert len(asker.asked) == sum(end > cut for end in ends)


def test_sigkill_in_the_middle_of_a_run(tmp_path, whole):
  code = (
    "import os, signal, sys; from tests.labeling import store_test as t\n"
    "asker, calls = t.Asker(), []\n"
    "def ask(pairs):\n"
    "  calls.append(1)\n"
    "  if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
    "  return asker(pairs)\n"
    "t.open_store(sys.argv[1]).fill(t.make_pairs(), ask, chunk_size=3)\n"
  )
  path = tmp_path / "killed" / "store.jsonl"
  root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
  run = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root)
  assert run.returncode == -signal.SIGKILL
  labels = open_store(path)
  assert len(labels.missing(make_pairs())) == 1
  labels.fill(make_pairs(), Asker(), chunk_size=3)
  assert export(path.parent) == whole[1]


def test_nothing_is_paid_twice(tmp_path):
  pairs = make_pairs()  # the texts of 7, 8, 9 repeat those of 0, 1, 2
  asker, seen = Asker(), []
  labels = open_store(tmp_path / "s.jsonl")
  assert [p.id for p in labels.missing(pairs)] == [f"p{i}" for i in range(7)]
  labels.fill(pairs, asker, chunk_size=4, progress=lambda *at: seen.append(at))
  assert asker.asked == [["p0", "p1", "p2", "p3"], ["p4", "p5", "p6"]]
  assert seen == [(4, 10), (8, 10), (10, 10)]
  again = open_store(tmp_path / "s.jsonl")
  again.fill(pairs, asker, chunk_size=4)
  assert len(asker.asked) == 2
  assert again.usage == labels.usage
  assert again.usage.requests == 14  # two orders of seven pairs


def test_labels_come_in_the_order_of_the_pairs_with_their_ids(tmp_path):
  labels = open_store(tmp_path / "s.jsonl")
  labels.fill(make_pairs(), Asker(), chunk_size=4)
  backwards = make_pairs()[::-1]
  result = labels.labels(backwards)
  assert [row.id for row in result] == [pair.id for pair in backwards]
  assert result[0].p_first == result[7].p_first  # p9 and p2: the same texts
  assert result[0].p_orders == result[7].p_orders and result[0].p_orders
  labels.export(tmp_path / "out.jsonl", backwards)
  read = jsonl.read_records(records.Preference, tmp_path / "out.jsonl")
  assert read == result


def test_another_judge_asks_anew_in_the_same_file(tmp_path):
  path = tmp_path / "s.jsonl"
  open_store(path).fill(make_pairs(), Asker(), chunk_size=4)
  other = store.LabelStore(path, fingerprint="other")
  assert len(other.missing(make_pairs())) == 7
  assert other.usage == records.Usage()
  other.fill(make_pairs(), Asker(), chunk_size=4)
  assert open_store(path).usage == other.usage
  # A store is not symmetric: the swapped pair is another question.
  swapped = [
    records.Pair(id=p.id, context=p.context, first=p.second, second=p.first)
    for p in make_pairs()
  ]
  assert len(other.missing(swapped)) == 7


def test_a_pair_without_an_answer_is_asked_again(tmp_path):
  pairs = make_pairs(4)
  asker = Asker()

  def ask_all_but_p1(wanted):
    return asker([pair for pair in wanted if pair.id != "p1"])

  labels = open_store(tmp_path / "s.jsonl")
  labels.fill(pairs, ask_all_but_p1, chunk_size=4)
  assert labels.export(tmp_path / "out.jsonl", pairs) == 3
  labels.fill(pairs, asker, chunk_size=4)
  assert asker.asked[-1] == ["p1"]
  assert labels.export(tmp_path / "out.jsonl", pairs) == 4


def test_a_bad_line_is_named(tmp_path):
  path = tmp_path / "s.jsonl"
  labels = open_store(path)
  labels.fill(make_pairs(), Asker(), chunk_size=4)
  good = path.read_text(encoding="utf-8")
  for bad in ('{"labels": []}', "nonsense", "[]"):
    path.write_text(good + bad + "\n" + good, encoding="utf-8")
    with pytest.raises(ValueError, match=r"s\.jsonl:3: not a chunk"):
      open_store(path)
  assert json.loads(good.splitlines()[0])["usage"]["requests"] == 8


def test_costs_follow_the_prices():
  usage = records.Usage(input_tokens=3000, output_tokens=500, requests=7)
  prices = store.Prices(input_usd_per_1k=0.5, output_usd_per_1k=2.0)
  assert prices.cost_usd(usage) == pytest.approx(3 * 0.5 + 0.5 * 2.0)
  assert store.Prices().cost_usd(usage) == 0.0
  with pytest.raises(ValueError, match="output_usd_per_1k is -1"):
    store.Prices(output_usd_per_1k=-1)


def test_chunk_size_is_checked(tmp_path):
  fill = functools.partial(open_store(tmp_path / "s.jsonl").fill, [], Asker())
  with pytest.raises(ValueError, match="chunk_size is 0"):
    fill(chunk_size=0)
