# SPDX-License-Identifier: Apache-2.0
"""The Beam job beside the `label` job: same labels, same store, same bills."""

from __future__ import annotations

import json

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.jobs import label_beam
from rlaif_jax.jobs import label_pairs
from rlaif_jax.api import labelers
from rlaif_jax.labeling import beam_files
from rlaif_jax.labeling import beam_labels
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import likelihood_judge
from tests.labeling import faulty_server

pytest.importorskip("apache_beam")

# With the second flag the DirectRunner does not try to download another one.
DIRECT = ("--runner=DirectRunner", "--allow_unsafe_triggers")
PRICES = costs.Prices(input_usd_per_1k=0.03, output_usd_per_1k=0.06)
JUDGE = pairwise_judge.PairwiseJudgeConfig()


def write_pairs(directory, count=24):
  """Pairs in two files, and two lines that are none."""
  pairs = [
    records.Pair(id=f"p{i}", context=f"doc {i}", first="a", second=f"b {i}")
    for i in range(count)
  ]
  pairs[3] = records.Pair(id="twin", context="doc 2", first="a", second="b 2")
  pairs[4] = records.Pair(id="same", context="doc 4", first="a", second="a")
  bad = records.Pair(id="bad", context="c", first="Summary 2 - x", second="y")
  jsonl.write_records(directory / "pairs-0.jsonl", [*pairs[:9], bad])
  jsonl.write_records(directory / "pairs-1.jsonl", pairs[9:])
  with open(directory / "pairs-0.jsonl", "ab") as f:
    f.write(b'not JSON\n{"id": 1}\n')
  whole = directory / "whole.jsonl"
  parts = [directory / f"pairs-{k}.jsonl" for k in range(2)]
  whole.write_bytes(b"".join(part.read_bytes() for part in parts))
  return str(directory / "pairs-*.jsonl"), str(whole)


@pytest.fixture
def server():
  with faulty_server.FaultyServer() as running:
    yield running


def served(server, **changes):
  return endpoint_config.EndpointConfig(
    model="m", base_url=server.url, max_retries=0, **changes
  )


def label(output_dir, pattern, **settings):
  settings = (
    dict(judge=JUDGE, shards=4, batch_size=5, pipeline_options=DIRECT)
    | settings
  )
  return label_beam.run(
    output_dir=str(output_dir), pairs_pattern=pattern, **settings
  )


def test_the_result_is_that_of_the_label_job(tmp_path, server):
  pattern, whole = write_pairs(tmp_path)
  settings = {"endpoint": served(server), "prices": PRICES}
  ours = label(tmp_path / "beam", pattern, **settings)
  assert max(server.served.values()) == 1
  theirs = label_pairs.run(
    output_dir=str(tmp_path / "label"),
    pairs_file=whole,
    judge=JUDGE,
    **settings,
  )
  one, other = tmp_path / "beam", tmp_path / "label"
  text = (one / "labels.jsonl").read_bytes()
  assert text == (other / "labels.jsonl").read_bytes()
  for name in ("pairs", "answered", "labeler", "usage", "cost_usd"):
    assert ours[name] == theirs[name], name
  for name in ("quarantined", "quarantine_reasons", "position_bias"):
    assert ours[name] == theirs[name], name
  assert (ours["pairs"], ours["answered"], ours["asked"]) == (25, 24, 24)
  assert ours["quarantined"] == 3 and ours["cost_usd"] > 0
  places = [
    json.loads(line)["where"].rpartition("/")[2]
    for line in (one / "quarantine.jsonl").read_text().splitlines()
  ]
  assert sorted(places) == ["labeling bad", "pairs-0.jsonl:11"] + [
    "pairs-0.jsonl:12"
  ]
  shards = list(beam_files.read_rows(f"{one}/labels-*.jsonl"))
  assert len(shards) == 24 and ours["labels"] == f"{one}/labels.jsonl"


def test_the_store_goes_on_in_either_job(tmp_path, server):
  pattern, whole = write_pairs(tmp_path)
  label(tmp_path / "beam", pattern, endpoint=served(server))
  asked = server.received.total()
  merged = label_pairs.run(
    output_dir=str(tmp_path / "label"),
    pairs_file=whole,
    judge=JUDGE,
    endpoint=served(server),
    store_dir=str(tmp_path / "beam" / "store"),
  )
  assert merged["answered"] == 24
  again = label(tmp_path / "beam", pattern, endpoint=served(server))
  assert again["asked"] == 1  # the one without a label, which costs nothing
  assert again["usage"] == merged["usage"]
  assert server.received.total() == asked


def test_shards_are_those_of_the_label_job(tmp_path):
  pattern, whole = write_pairs(tmp_path)
  del pattern
  for number in range(3):
    pairs = list(
      labelers.read_pairs(
        whole, shard=f"{number}/3", quarantine=jsonl.Quarantine()
      )
    )
    assert pairs
    assert {beam_labels.shard_of(pair, 3) for pair in pairs} == {number}


def test_a_model_of_ones_own(world, tmp_path):
  pattern, whole = write_pairs(tmp_path, 8)
  config = pairwise_judge.PairwiseJudgeConfig(
    template="docstring_pairwise", max_context_tokens=150
  )
  settings = {"judge": config, "labeler_dir": str(world / "sft" / "model")}
  ours = label(tmp_path / "beam", pattern, **settings)
  label_pairs.run(
    output_dir=str(tmp_path / "label"), pairs_file=whole, **settings
  )
  assert ours["answered"] == 9  # "Summary 2" is no line of this prompt.
  one, other = (
    jsonl.read_records(records.Preference, tmp_path / name / "labels.jsonl")
    for name in ("beam", "label")
  )
  assert [row.id for row in one] == [row.id for row in other]
  assert [row.p_first for row in one] == pytest.approx(
    [row.p_first for row in other], abs=1e-5
  )
  likely = likelihood_judge.LikelihoodJudgeConfig(score="mean_log_prob")
  done = label(tmp_path / "likely", pattern, **settings | {"judge": likely})
  assert done["answered"] == 9 and done["usage"]["requests"] > 0


def test_a_pipeline_that_fails_says_so_and_goes_on(tmp_path, monkeypatch):
  pattern, _ = write_pairs(tmp_path)
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  with pytest.raises(ValueError, match="holds no key"):
    label(
      tmp_path / "out",
      pattern,
      endpoint=endpoint_config.EndpointConfig(model="m"),
    )
  is_down = True

  def plan(prompt, attempt):
    return "500" if is_down and "doc 7" in prompt else ""

  with faulty_server.FaultyServer(plan=plan) as server:
    settings = {"endpoint": served(server), "shards": 1, "batch_size": 1}
    with pytest.raises(OSError, match="no answer to 2 of 2 prompts"):
      label(tmp_path / "out", pattern, **settings)
    paid = server.served.total()
    is_down = False
    result = label(tmp_path / "out", pattern, **settings)
    assert 0 < paid < server.served.total() == result["usage"]["requests"]
    assert max(server.served.values()) == 1


def test_what_a_remote_worker_said_is_told(tmp_path, server, monkeypatch):
  pattern, _ = write_pairs(tmp_path)

  def fails(*arguments, **settings):
    raise RuntimeError(
      "Traceback\n  many lines\nValueError: the worker's own\n"
    )

  monkeypatch.setattr(beam_files, "label_files", fails)
  said = "failed: .ValueError: the worker's own.*same command continues"
  with pytest.raises(ValueError, match=said):
    label(tmp_path / "out", pattern, endpoint=served(server))


def test_a_stop_is_no_failure(tmp_path, server, monkeypatch):
  pattern, _ = write_pairs(tmp_path)
  monkeypatch.setattr(preemption, "requested", lambda: True)
  with pytest.raises(preemption.Preempted, match="label_beam: stopped"):
    label(tmp_path / "out", pattern, endpoint=served(server))
  monkeypatch.undo()
  assert label(tmp_path / "out", pattern, endpoint=served(server))["asked"] > 0
  assert max(server.served.values()) == 1


def test_labels_elsewhere_are_not_merged(tmp_path, server, monkeypatch):
  pattern, _ = write_pairs(tmp_path)
  monkeypatch.setattr(beam_files, "is_local", lambda path: False)
  there = tmp_path / "there"
  result = label(
    tmp_path / "out", pattern, endpoint=served(server), labels_dir=f"{there}/"
  )
  assert result["labels"] == f"{there}/labels-*.jsonl"
  assert not (tmp_path / "out").exists() and (there / "store").is_dir()
  assert "local files" in label_beam.dry_run(
    pairs_pattern="gs://b/x", judge=JUDGE
  )
  monkeypatch.setattr(beam_files, "read_rows", lambda pattern: iter(()))
  with pytest.raises(ValueError, match="set labels_dir to a folder"):
    label(tmp_path / "out", pattern, endpoint=served(server))


def test_a_dry_run_counts_and_calls_nobody(tmp_path):
  pattern, _ = write_pairs(tmp_path)
  text = label_beam.dry_run(pairs_pattern=pattern, judge=JUDGE, prices=PRICES)
  assert "25 pairs, 48 requests" in text and "US dollars" in text
  for missing in ({"pairs_pattern": "no-*"}, {"labeler_dir": "no-model"}):
    settings = {"pairs_pattern": pattern, "judge": JUDGE} | missing
    text = label_beam.dry_run(**settings)
    assert f"when {list(missing.values())[0]} is there" in text


def test_settings_are_checked_before_anything_starts(tmp_path, server):
  pattern, _ = write_pairs(tmp_path)
  with pytest.raises(ValueError, match="either labeler_dir or endpoint"):
    label(tmp_path / "out", pattern)
  with pytest.raises(ValueError, match="likelihood of a given text"):
    label(
      tmp_path / "out",
      pattern,
      endpoint=served(server),
      judge=likelihood_judge.LikelihoodJudgeConfig(),
    )
  (tmp_path / "none.jsonl").write_text("\n")
  with pytest.raises(ValueError, match="has no pairs"):
    label(tmp_path / "o", str(tmp_path / "none.jsonl"), endpoint=served(server))
  assert not server.received
