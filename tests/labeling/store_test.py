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
import tracemalloc

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import store
from tests import testing

CONFIG = pairwise_judge.PairwiseJudgeConfig()


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
    return pairwise_judge.judge_pairs(pairs, backend, CONFIG)


def open_store(path):
  return store.LabelStore(path, fingerprint=CONFIG.fingerprint("scripted"))


def export(directory):
  out = directory / "out.jsonl"
  jsonl.write_records(out, open_store(directory).labels(make_pairs()))
  return out.read_bytes()


def own_file(directory):
  return directory / "labels.jsonl"


@pytest.fixture(name="whole")
def fixture_whole(tmp_path):
  """An uninterrupted run: (bytes of the store, bytes of the export)."""
  directory = tmp_path / "whole"
  labels = open_store(directory / "store")
  labels.fill(make_pairs(), Asker(), chunk_size=3)
  labels.close()
  data = own_file(directory / "store").read_bytes()
  return data, export(directory / "store")


def test_a_kill_after_any_byte_resumes_to_the_same_bytes(tmp_path, whole):
  data, exported = whole
  ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
  cuts = {0, 1, len(data)} | set(range(0, len(data), 97))
  cuts |= {end + step for end in ends for step in (-1, 0, 1)} - {len(data) + 1}
  for cut in sorted(cuts):
    directory = tmp_path / str(cut)
    directory.mkdir()
    own_file(directory).write_bytes(data[:cut])
    asker = Asker()
    labels = open_store(directory)
    labels.fill(make_pairs(), asker, chunk_size=3)
    labels.close()
    assert own_file(directory).read_bytes() == data
    own_file(directory).rename(directory / "renamed.jsonl")
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
  path = tmp_path / "killed"
  root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
  run = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root)
  assert run.returncode == -signal.SIGKILL
  labels = open_store(path)
  assert len(labels.missing(make_pairs())) == 1
  labels.fill(make_pairs(), Asker(), chunk_size=3)
  assert export(path) == whole[1]


def test_nothing_is_paid_twice(tmp_path):
  pairs = make_pairs()  # the texts of 7, 8, 9 repeat those of 0, 1, 2
  asker, seen = Asker(), []
  labels = open_store(tmp_path / "s")
  assert [p.id for p in labels.missing(pairs)] == [f"p{i}" for i in range(7)]
  labels.fill(pairs, asker, chunk_size=4, progress=seen.append)
  assert asker.asked == [["p0", "p1", "p2", "p3"], ["p4", "p5", "p6"]]
  assert seen == [4, 8, 10]
  again = open_store(tmp_path / "s")
  again.fill(pairs, asker, chunk_size=4)
  assert len(asker.asked) == 2
  assert again.usage == labels.usage
  assert again.usage.requests == 14  # two orders of seven pairs


def test_labels_come_in_the_order_of_the_pairs_with_their_ids(tmp_path):
  labels = open_store(tmp_path / "s")
  labels.fill(make_pairs(), Asker(), chunk_size=4)
  backwards = make_pairs()[::-1]
  result = list(labels.labels(backwards))
  assert [row.id for row in result] == [pair.id for pair in backwards]
  assert result[0].p_first == result[7].p_first  # p9 and p2: the same texts
  assert result[0].p_orders == result[7].p_orders and result[0].p_orders


def test_another_judge_asks_anew_in_the_same_file(tmp_path):
  path = tmp_path / "s"
  first = open_store(path)
  first.fill(make_pairs(), Asker(), chunk_size=4)
  first.close()
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

  labels = open_store(tmp_path / "s")
  labels.fill(pairs, ask_all_but_p1, chunk_size=4)
  assert [row.id for row in labels.labels(pairs)] == ["p0", "p2", "p3"]
  # What costs nothing and gives nothing leaves no line.
  before = own_file(tmp_path / "s").read_bytes()
  labels.fill(pairs, lambda _: ([], records.Usage()), chunk_size=4)
  assert own_file(tmp_path / "s").read_bytes() == before
  labels.fill(pairs, asker, chunk_size=4)
  assert asker.asked[-1] == ["p1"]
  assert len(list(labels.labels(pairs))) == 4


def test_a_bad_line_is_named(tmp_path):
  path = tmp_path / "s"
  labels = open_store(path)
  labels.fill(make_pairs(), Asker(), chunk_size=4)
  good = own_file(path).read_text(encoding="utf-8")
  for bad in ('{"labels": []}', "nonsense", "[]"):
    own_file(path).write_text(good + bad + "\n" + good, encoding="utf-8")
    with pytest.raises(ValueError, match=r"labels\.jsonl:3: not a chunk"):
      open_store(path)
  assert json.loads(good.splitlines()[0])["usage"]["requests"] == 8


def test_each_process_writes_its_own_file_and_reads_all(tmp_path):
  """Two stores on one directory at once, as two processes have them."""
  pairs = make_pairs(7)
  one, two = open_store(tmp_path), open_store(tmp_path)
  one_asker, two_asker = Asker(), Asker()
  one.fill(pairs[:2], one_asker, chunk_size=2)
  two.fill(pairs[:4], two_asker, chunk_size=2)
  one.fill(pairs, one_asker, chunk_size=7)
  assert one_asker.asked == [["p0", "p1"], ["p4", "p5", "p6"]]
  assert two_asker.asked == [["p2", "p3"]]
  names = {path.name for path in tmp_path.glob("*.jsonl")}
  assert names == {"labels.jsonl", "labels-1.jsonl"}
  two.refresh()
  assert list(two.labels(pairs)) == list(one.labels(pairs))
  assert one.usage.requests == two.usage.requests == 14
  one.close()
  two.close()


def test_merging_is_copying(tmp_path, whole):
  for shard, name in enumerate(("a", "b")):
    mine = [p for i, p in enumerate(make_pairs(7)) if i % 2 == shard]
    labels = store.LabelStore(
      tmp_path / name, fingerprint=CONFIG.fingerprint("scripted"), writer=name
    )
    labels.fill(mine, Asker(), chunk_size=1)
    labels.close()
  (tmp_path / "b" / "b.jsonl").rename(tmp_path / "a" / "b.jsonl")
  merged = open_store(tmp_path / "a")
  assert not merged.missing(make_pairs())
  assert merged.usage.requests == 14


def test_what_another_process_has_half_written_is_left_alone(tmp_path, whole):
  data, _ = whole
  (tmp_path / "other.jsonl").write_bytes(data[:-5])
  labels = open_store(tmp_path)
  known = 7 - len(labels.missing(make_pairs()))
  assert 0 < known < 7
  (tmp_path / "other.jsonl").write_bytes(data)
  labels.refresh()
  assert not labels.missing(make_pairs())
  assert (tmp_path / "other.jsonl").read_bytes() == data


def test_each_line_says_how_its_labels_were_made(tmp_path):
  labels = store.LabelStore(
    tmp_path, fingerprint="f", provenance={"template": "t", "settings": {}}
  )
  labels.fill(make_pairs(2), Asker(), chunk_size=2)
  (line,) = own_file(tmp_path).read_text().splitlines()
  judge_row = {"fingerprint": "f", "template": "t", "settings": {}}
  assert json.loads(line)["judge"] == judge_row


def test_labels_are_not_held_in_memory(tmp_path):
  """8,000 labels of 2 kB each: Python holds less than a third."""
  texts = [f"{i}" for i in range(8_000)]
  labels = store.LabelStore(tmp_path, fingerprint="f")
  rationale = "x" * 2000

  def pairs():
    return (records.Pair(id=t, context=t, first="a", second="b") for t in texts)

  def ask(some):
    found = [
      records.Preference(
        **records.to_row(p), p_first=0.5, labeler="l", rationales=(rationale,)
      )
      for p in some
    ]
    return found, records.Usage(requests=len(some))

  tracemalloc.start()
  labels.fill(pairs(), ask, chunk_size=500)
  count = jsonl.write_records(tmp_path / "out", labels.labels(pairs()))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert count == 8_000 and (tmp_path / "out").stat().st_size > 16e6
  assert peak < 5e6


def test_chunk_size_is_checked(tmp_path):
  fill = functools.partial(open_store(tmp_path / "s").fill, [], Asker())
  with pytest.raises(ValueError, match="chunk_size is 0"):
    fill(chunk_size=0)


def test_labels_of_another_model_of_the_same_name_are_said(tmp_path, caplog):
  def fill(backend):
    judge = dict(
      fingerprint=CONFIG.fingerprint(backend),
      provenance=CONFIG.provenance(backend),
    )
    stored = store.LabelStore(tmp_path, **judge)
    asker = Asker()
    stored.fill(make_pairs(6), asker, chunk_size=3)
    stored.close()
    return len(asker.asked)

  assert fill("sft@aa") == 2 and fill("endpoint:h/m") == 2
  assert not caplog.text
  assert fill("sft@bb") == 2
  assert "6 labels are of sft@aa, another model" in caplog.text


@pytest.mark.parametrize(
  "change, message",
  [
    ({"p_first": "x"}, "p_first is 'x'; it must be a finite number"),
    ({"p_first": 2.0}, "p_first is 2.0"),
    ({"key": "no hex"}, "invalid literal"),
    ({"key": "f" * 40}, "too large|OverflowError"),
    ({"more": 1}, "unknown keys"),
    ({"rationales": ["\ud800"]}, "not Unicode"),
  ],
)
def test_a_damaged_label_is_named(tmp_path, change, message):
  held = open_store(tmp_path)
  held.fill(make_pairs(2), Asker(), chunk_size=2)
  held.close()
  path = tmp_path / "labels.jsonl"
  chunk = json.loads(path.read_text())
  chunk["labels"][1] |= change
  path.write_text(json.dumps(chunk) + "\n")
  with pytest.raises(ValueError, match=f"labels.jsonl:1: .*{message}"):
    open_store(tmp_path)
