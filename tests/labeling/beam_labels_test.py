# SPDX-License-Identifier: Apache-2.0
"""The Beam pipeline: the judge's own labels, whatever happens on the way."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import sys
import threading
import time

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.labeling import beam_labels
from rlaif_jax.labeling import endpoint
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import store
from rlaif_jax.text import estimates
from tests import testing
from tests.labeling import faulty_server

beam = pytest.importorskip("apache_beam")

from apache_beam.internal.cloudpickle import cloudpickle
from apache_beam.options import pipeline_options
from apache_beam.testing import util

# With the second flag the DirectRunner does not try to download another one.
DIRECT = ("--runner=DirectRunner", "--allow_unsafe_triggers")
THREADS = ("--direct_num_workers=3", "--direct_running_mode=multi_threading")
JUDGE = pairwise_judge.PairwiseJudgeConfig()
BROKEN = "half \ud800"


def log_prob(prompt, option):
  """A label that is drawn by the prompt; NaN for a document that asks."""
  if "no answer" in prompt:
    return math.nan
  return math.log(0.05 + 0.4 * faulty_server.number(prompt, option))


class World:
  """State that the workers of a test share, as threads of this process."""

  opened = 0
  asked: collections.Counter[str] = collections.Counter()
  calls = 0
  failing_calls: set[int] = set()  # the numbers of those that fail, from 1
  most_at_once = at_once = 0
  found: dict[str, list] = {}


@pytest.fixture(autouse=True)
def world():
  World.opened = World.calls = World.most_at_once = World.at_once = 0
  World.failing_calls = set()
  World.asked = collections.Counter()


class Backend(testing.ScriptedBackend):
  """Notes what is paid, and fails as told."""

  def score_options(self, prompts, options):
    World.at_once += 1
    World.most_at_once = max(World.most_at_once, World.at_once)
    try:
      World.calls += 1
      if World.calls in World.failing_calls:
        raise ConnectionError("told to fail")
      World.asked.update(prompts)
      time.sleep(0.01)  # Long enough to meet another thread.
      return super().score_options(prompts, options)
    finally:
      World.at_once -= 1


def open_worker():
  World.opened += 1
  return beam_labels.Worker(
    backend=Backend(log_prob),
    tokenizer=estimates.EstimatedTokenizer(),
    lock=threading.Lock(),
  )


def make_config(**changes):
  settings = dict(
    open_labeler=open_worker,
    judge=JUDGE,
    shards=4,
    batch_size=3,
  )
  return beam_labels.PipelineConfig(**settings | changes)


def make_pairs(count=20):
  return [
    records.Pair(id=f"p{i}", context=f"doc {i}", first="a", second=f"b {i}")
    for i in range(count)
  ]


def expected(pairs):
  labels, usage = pairwise_judge.judge_pairs(
    pairs,
    testing.ScriptedBackend(log_prob),
    JUDGE,
    tokenizer=estimates.EstimatedTokenizer(),
    quarantine=jsonl.Quarantine(),
  )
  return [records.to_row(label) for label in labels], usage


def run(rows, config, *, flags=DIRECT):
  """Labels and quarantine, each in the order of their lines, and counters."""

  def keep(name):
    def check(rows):  # Travels as a copy; World does not.
      World.found[name] = sorted(rows, key=jsonl.dump_row)

    return check

  options = pipeline_options.PipelineOptions(list(flags))
  pipeline = beam.Pipeline(options=options)
  out = pipeline | beam.Create(rows) | beam_labels.label_pairs(config)
  for name, rows in out.items():
    util.assert_that(rows, keep(name), label=name)
  result = pipeline.run()
  result.wait_until_finish()
  counts = beam_labels.counts_of(result)
  return World.found["labels"], World.found["quarantine"], counts


def plain(rows):
  """Labels without provenance, in the order of their ids."""
  rows = [{k: v for k, v in r.items() if k != "provenance"} for r in rows]
  return by_id(rows)


def by_id(rows):
  return sorted(rows, key=lambda row: row["id"])


@pytest.mark.parametrize("flags", [DIRECT, DIRECT + THREADS])
def test_labels_are_the_judges(flags):
  pairs = make_pairs()
  same = [dataclasses.replace(pairs[0], id="q0", source="twin")]
  equal = [records.Pair(id="q1", context="c", first="a", second="a")]
  everything = pairs + same + equal
  rows = [records.to_row(pair) for pair in everything]
  labels, quarantine, counts = run(rows, make_config(), flags=flags)
  wanted, _ = expected(everything)
  _, usage = expected(pairs)  # The twin costs nothing.
  assert plain(labels) == by_id(wanted)
  assert not quarantine
  assert set(World.asked.values()) == {1}
  assert World.opened == 1 and World.most_at_once == 1
  assert counts == {
    "pairs": 22,
    "labelled": 22,
    "requested": 21,
    "quarantined": 0,
    **records.to_row(usage),
  }
  provenance = json.loads(labels[0]["provenance"])
  assert provenance == JUDGE.provenance("scripted")


def test_bad_rows_are_set_aside_with_the_judges_reasons():
  good = make_pairs(3)
  poses = records.Pair(id="b", context="c", first="Summary 2 - x", second="y")
  silent = records.Pair(id="n", context="no answer", first="x", second="y")
  broken = records.Pair(id="s", context=BROKEN, first="x", second="y")
  rows = [*map(records.to_row, [*good, poses, silent]), {"id": "m"}, 5]
  rows.append({**records.to_row(good[0]), "first": None})
  labels, quarantine, counts = run(rows, make_config())
  assert [row["id"] for row in plain(labels)] == ["p0", "p1", "p2"]
  known = jsonl.Quarantine()
  pairwise_judge.judge_pairs(
    [poses, silent, broken],
    testing.ScriptedBackend(log_prob),
    JUDGE,
    quarantine=known,
  )
  reasons = [row["reason"] for row in quarantine]
  assert {row["reason"] for row in known.rows[:2]} < set(reasons)
  assert sum("missing keys" in reason for reason in reasons) == 1
  assert sum("expected an object" in reason for reason in reasons) == 1
  assert "it must be a text" in str(reasons)
  assert counts["quarantined"] == len(quarantine) == 5
  with pytest.raises(ValueError) as caught:
    beam_labels.as_pair(records.to_row(broken))
  assert "context is 'half \\ud800'; it must be Unicode" in str(caught.value)
  bad = beam_labels.bad_row("f:1", caught.value, BROKEN)
  assert bad["row"] == "half \\ud800"


def test_what_is_kept_is_not_asked_again(tmp_path):
  rows = [records.to_row(pair) for pair in make_pairs()]
  config = make_config(store_dir=str(tmp_path / "store"))
  first = run(rows, config)
  second = run(rows, dataclasses.replace(config, batch_size=7))
  assert first[0] == second[0]
  assert set(World.asked.values()) == {1}
  assert first[2]["requested"] == 20 and second[2]["requested"] == 0
  assert first[2]["requests"] == second[2]["requests"] == 40
  # More pairs: only they are asked. Another judge: all.
  more = [records.to_row(pair) for pair in make_pairs(22)]
  assert run(more, config)[2]["requested"] == 2
  other = dataclasses.replace(
    config, judge=pairwise_judge.PairwiseJudgeConfig(orders="first")
  )
  assert run(rows, other)[2]["requested"] == 20
  # The folder is a label store.
  names = sorted(path.name for path in (tmp_path / "store").iterdir())
  assert names == [f"shard-{k:05d}-of-00004.jsonl" for k in range(4)]
  stored = store.LabelStore(
    tmp_path / "store", fingerprint=JUDGE.fingerprint("scripted")
  )
  labels = list(stored.labels(make_pairs()))
  assert by_id(map(records.to_row, labels)) == plain(first[0])


def test_beam_runs_a_bundle_again(tmp_path):
  """This runner tries four times; the second call of the judge fails."""
  rows = [records.to_row(pair) for pair in make_pairs(9)]
  World.failing_calls = {2, 4}
  labels, quarantine, counts = run(
    rows,
    make_config(shards=1, store_dir=str(tmp_path)),
    flags=("--runner=BundleBasedDirectRunner",),
  )
  assert plain(labels) == expected(make_pairs(9))[0] and not quarantine
  assert World.calls == 5
  assert set(World.asked.values()) == {1} and len(World.asked) == 18
  assert counts["labelled"] == 9 and counts["requests"] == 18


def test_a_shard_that_is_given_out_again_pays_for_one_batch(tmp_path):
  """One shard in batches of 3; the third call fails, then all is well."""
  rows = [records.to_row(pair) for pair in make_pairs(9)]
  config = make_config(shards=1, store_dir=str(tmp_path))
  World.failing_calls = {3}
  with pytest.raises(ConnectionError):
    beam_labels.label_shard(0, rows, open_worker(), config)
  again = beam_labels.label_shard(0, rows, open_worker(), config)
  assert World.calls == 4
  assert set(World.asked.values()) == {1} and len(World.asked) == 18
  assert again.counts["requested"] == 3 and again.counts["requests"] == 18
  assert again.counts["labelled"] == 9
  # Nothing half-written stays.
  assert [path.name for path in tmp_path.iterdir()] == [
    "shard-00000-of-00001.jsonl"
  ]


def test_batches_do_not_depend_on_the_order_of_the_rows():
  rows = [records.to_row(pair) for pair in make_pairs(9)]
  config = make_config(shards=1)
  backends = []
  for some in (rows, rows[::-1]):
    worker = open_worker()
    beam_labels.label_shard(0, some, worker, config)
    backends.append(worker.backend)
  assert len(backends[0].calls) == 3
  assert backends[0].calls == backends[1].calls


def test_a_stop_is_heard_after_a_batch(tmp_path, monkeypatch):
  monkeypatch.setattr(preemption, "requested", lambda: True)
  rows = [records.to_row(pair) for pair in make_pairs(9)]
  config = make_config(shards=1, store_dir=str(tmp_path))
  with pytest.raises(preemption.Preempted, match="stopped after 3 pairs"):
    beam_labels.label_shard(0, rows, open_worker(), config)
  assert len(World.asked) == 6  # both orders of 3 pairs, which are kept
  monkeypatch.undo()
  done = beam_labels.label_shard(0, rows, open_worker(), config)
  assert done.counts["requested"] == 6 and set(World.asked.values()) == {1}


def test_an_endpoint_with_faults_gives_the_labels_of_one_without():
  pairs = make_pairs(40)
  rows = [records.to_row(pair) for pair in pairs]
  plan = faulty_server.random_plan(0.15)
  with faulty_server.FaultyServer(plan=plan, slow_seconds=1.5) as server:
    served = endpoint_config.EndpointConfig(
      model="m",
      base_url=server.url,
      timeout_seconds=1.0,
      first_backoff_seconds=0.01,
      max_backoff_seconds=0.1,
      max_retries=10,
    )

    def open_endpoint():
      World.opened += 1
      return beam_labels.Worker(
        backend=endpoint.EndpointBackend(served),
        tokenizer=estimates.EstimatedTokenizer(),
      )

    config = make_config(open_labeler=open_endpoint, batch_size=5)
    labels, quarantine, counts = run(rows, config, flags=DIRECT + THREADS)
    assert server.faults.total() > 0
    assert max(server.served.values()) == 1
    assert counts["retries"] == server.received.total() - 80
    assert counts["input_tokens"] >= sum(len(p) for p in server.served)
  assert World.opened == 1 and not quarantine
  reference, _, _ = faulty_server_twin(pairs)
  assert [row["p_first"] for row in plain(labels)] == [
    row["p_first"] for row in plain(reference)
  ]


def faulty_server_twin(pairs):
  """The judge itself, in one call, by a server without faults."""
  with faulty_server.FaultyServer() as server:
    backend = endpoint.EndpointBackend(
      endpoint_config.EndpointConfig(model="m", base_url=server.url)
    )
    labels, usage = pairwise_judge.judge_pairs(pairs, backend, JUDGE)
    backend.close()
  return [records.to_row(label) for label in labels], [], usage


def test_the_key_is_not_part_of_the_pipeline(monkeypatch):
  monkeypatch.setenv("MY_KEY_VARIABLE", "sk-very-secret")
  served = endpoint_config.EndpointConfig(
    model="m", base_url="http://h/v1", api_key_variable="MY_KEY_VARIABLE"
  )

  def open_endpoint():
    return beam_labels.Worker(
      backend=endpoint.EndpointBackend(served),
      tokenizer=estimates.EstimatedTokenizer(),
    )

  transform = beam_labels.label_pairs(make_config(open_labeler=open_endpoint))
  travels = cloudpickle.dumps(transform)
  assert b"MY_KEY_VARIABLE" in travels
  assert b"sk-very-secret" not in travels


def test_without_beam_the_error_says_what_to_type(monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(ImportError, match=r"rlaif_jax\[beam\]"):
    beam_labels.label_pairs(make_config())


def test_sizes_are_checked():
  with pytest.raises(ValueError, match="shards is 0"):
    make_config(shards=0)
  with pytest.raises(ValueError, match="batch_size is 0"):
    make_config(batch_size=0)
