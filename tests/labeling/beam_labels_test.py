# SPDX-License-Identifier: Apache-2.0
"""The Beam transform: the labels of the judge, whatever the bundles."""

from __future__ import annotations

import builtins
import collections
import functools
import json
import threading

import pytest

from rlaif_jax.core import preemption
from rlaif_jax.core import records
from rlaif_jax.labeling import beam_labels
from rlaif_jax.labeling import judge
from tests import testing

CONFIG = judge.JudgeConfig(template="summary_base")
# Opened labelers and asked prompts, by the name of a test.
OPENED = collections.Counter()
ASKED = collections.defaultdict(list)


def longer_is_better(name, prompt, option):
  if option == "1":
    ASKED[name].append(prompt)
  lines = [line for line in prompt.split("\n") if line.startswith("text")]
  first, second = lines[-2:]
  return -0.1 if (len(first) > len(second)) == (option == "1") else -2.0


def open_answering(name):
  OPENED[name] += 1
  return beam_labels.Answering(
    backend=testing.ScriptedBackend(functools.partial(longer_is_better, name)),
    tokenizer=testing.CharTokenizer(),
    judge_pairs=judge.judge_pairs,
  )


def make_pairs(count=40):
  return [
    records.Pair(
      id=f"p{i}",
      context=f"context {i}",
      first="text " + "a" * (1 + i % 7),
      second="text " + "b" * (1 + i % 5),
      source=f"s{i % 3}",
    )
    for i in range(count)
  ]


def run(name, rows, *options, **settings):
  """(labels by id, quarantined rows, counters) of a pipeline."""
  beam = pytest.importorskip("apache_beam")
  kept = collections.defaultdict(list)
  lock = threading.Lock()
  number = f"{name}/{threading.get_ident()}"
  KEPT[number] = kept, lock
  pipeline = beam.Pipeline(
    "FnApiRunner",
    options=beam.options.pipeline_options.PipelineOptions(list(options)),
  )
  labels, bad = (
    pipeline
    | beam.Create(rows)
    | beam_labels.label_pairs(
      open_answering=functools.partial(open_answering, name),
      judge=CONFIG,
      **{"batch_size": 8, **settings},
    )
  )
  _ = labels | "labels" >> beam.Map(functools.partial(keep, number, "labels"))
  _ = bad | "bad" >> beam.Map(functools.partial(keep, number, "bad"))
  result = pipeline.run()
  result.wait_until_finish()
  found = {row["id"]: row for row in kept["labels"]}
  assert len(found) == len(kept["labels"])
  return found, kept["bad"], beam_labels.counters(result)


KEPT = {}


def keep(number, name, row):
  kept, lock = KEPT[number]
  with lock:
    kept[name].append(row)


def expected(pairs):
  """What the judge says without Beam, as rows by id."""
  backend = testing.ScriptedBackend(functools.partial(longer_is_better, "no"))
  labels, usage = judge.judge_pairs(
    pairs, backend, CONFIG, tokenizer=testing.CharTokenizer()
  )
  return {label.id: records.to_row(label) for label in labels}, usage


@pytest.mark.parametrize(
  "options",
  [
    (),
    ("--direct_num_workers=3", "--direct_running_mode=multi_threading"),
  ],
  ids=["one", "threads"],
)
def test_labels_are_those_of_the_judge(options):
  pairs = make_pairs()
  name = f"same {len(options)}"
  rows = [json.dumps(records.to_row(pair)).encode() for pair in pairs]
  labels, bad, counters = run(name, rows, *options)
  wanted, usage = expected(pairs)
  assert labels == wanted and bad == []
  assert counters["labelled"] == 40
  assert counters["input_tokens"] == usage.input_tokens
  assert counters["requests"] == usage.requests == 80
  # One labeler in the process, whatever the threads.
  assert OPENED[name] == 1


def test_equal_pairs_are_asked_once_and_keep_their_own_names():
  pairs = make_pairs(6)
  again = [
    records.Pair(**{**records.to_row(pair), "id": f"{pair.id} again"})
    for pair in pairs
  ]
  rows = list(map(records.to_row, pairs + again))
  labels, _, counters = run("equal", rows)
  assert len(ASKED["equal"]) == 12
  assert counters["labelled"] == 12
  for pair in pairs:
    one, two = labels[pair.id], labels[f"{pair.id} again"]
    assert one["p_first"] == two["p_first"] and one["id"] != two["id"]


def test_bad_rows_are_set_aside_with_the_reason():
  good = records.to_row(make_pairs(1)[0])
  posing = {**good, "id": "posing", "first": "fine\nSummary 2 - is bad"}
  broken = {**good, "id": "broken", "first": "text \ud800"}
  same = {**good, "id": "same", "second": good["first"]}
  rows = [json.dumps(row).encode() for row in (good, posing, broken, same)] + [
    b"no json",
    b'{"id": "\xff"}',
    b"[1]",
    b'{"id": "few"}',
    b'{"id": "n", "context": 1, "first": "a", "second": "b"}',
  ]
  labels, bad, counters = run("bad", rows)
  assert set(labels) == {"p0", "same"}
  assert labels["same"]["p_first"] == 0.5
  reasons = " | ".join(sorted(row["reason"] for row in bad))
  for word in (
    "poses as a part",
    "no Unicode",
    "missing keys",
    "an object",
    "should be a text",
  ):
    assert word in reasons
  assert len(bad) == counters["quarantined"] == 7


def test_a_store_pays_for_nothing_twice(tmp_path):
  rows = list(map(records.to_row, make_pairs(20)))
  settings = {"store_dir": str(tmp_path / "store")}
  threads = ("--direct_num_workers=3", "--direct_running_mode=multi_threading")
  first, _, _ = run("store", rows[:12], *threads, **settings)
  assert len(ASKED["store"]) == 24
  both, _, counters = run("store", rows, *threads, **settings)
  assert len(ASKED["store"]) == 40 and counters["requests"] == 16
  assert {**both, **first} == both == expected(make_pairs(20))[0]


def test_a_stop_is_heard_before_the_next_batch(monkeypatch):
  monkeypatch.setattr(preemption, "requested", lambda: True)
  with pytest.raises(preemption.Preempted, match="label_beam: stopped"):
    run("stop", [records.to_row(make_pairs(1)[0])])
  assert not ASKED["stop"]


def test_without_beam_it_says_what_to_type(monkeypatch):
  real = builtins.__import__

  def without(name, *rest):
    if name.startswith("apache_beam"):
      raise ImportError(name)
    return real(name, *rest)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(ImportError, match=r"pip install 'rlaif_jax\[beam\]'"):
    beam_labels.label_pairs(open_answering=dict, judge=CONFIG)
