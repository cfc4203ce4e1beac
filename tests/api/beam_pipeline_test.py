# SPDX-License-Identifier: Apache-2.0
"""Labels in a Beam pipeline: the labels, store and costs of one process."""

from __future__ import annotations

import os
import json

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.jobs import label_pairs
from rlaif_jax.api import beam_pipeline
from rlaif_jax.api import labelers
from rlaif_jax.labeling import beam_files
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.labeling import pair_source
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


def dry_run(pattern, **settings):
  return label_pairs.dry_run(
    pairs=pair_source.PairSource(pairs_file=pattern),
    judge=JUDGE,
    labeler=labelers.LabelerConfig(**settings),
    beam=beam_pipeline.BeamConfig(),
  )


@pytest.fixture
def server():
  with faulty_server.FaultyServer() as running:
    yield running


def served(server, **settings):
  endpoint = endpoint_config.EndpointConfig(
    model="m", base_url=server.url, max_retries=0
  )
  return labelers.LabelerConfig(endpoint=endpoint, **settings)


def label(
  output_dir,
  pattern,
  labeler,
  *,
  judge=JUDGE,
  shards=4,
  store=(),
  labels_dir="",
):
  """The `label` job in a pipeline."""
  return label_pairs.run(
    output_dir=str(output_dir),
    pairs=pair_source.PairSource(pairs_file=pattern),
    labeler=labeler,
    judge=judge,
    beam=beam_pipeline.BeamConfig(
      shards=shards, pipeline_options=DIRECT, labels_dir=labels_dir
    ),
    store=labelers.StoreConfig(**{"chunk_size": 5} | dict(store)),
  )


def label_here(output_dir, path, labeler, *, judge=JUDGE, store=()):
  """The `label` job in this process."""
  return label_pairs.run(
    output_dir=str(output_dir),
    pairs=pair_source.PairSource(pairs_file=path),
    labeler=labeler,
    judge=judge,
    store=labelers.StoreConfig(**dict(store)),
  )


def test_the_result_is_that_of_the_label_job(tmp_path, server):
  pattern, whole = write_pairs(tmp_path)
  labeler = served(server, prices=PRICES)
  ours = label(tmp_path / "beam", pattern, labeler)
  assert max(server.served.values()) == 1
  theirs = label_here(tmp_path / "label", whole, labeler)
  one, other = tmp_path / "beam", tmp_path / "label"
  text = (one / "labels.jsonl").read_bytes()
  assert text == (other / "labels.jsonl").read_bytes()
  for name in ("pairs", "answered", "labeler", "usage", "cost_usd"):
    assert ours[name] == theirs[name], name
  for name in ("quarantined", "quarantine_reasons", "position_bias"):
    assert ours[name] == theirs[name], name
  assert (ours["pairs"], ours["answered"], ours["requested"]) == (25, 24, 24)
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


def test_both_resume_from_the_same_store(tmp_path, server):
  pattern, whole = write_pairs(tmp_path)
  label(tmp_path / "beam", pattern, served(server))
  asked = server.received.total()
  merged = label_here(
    tmp_path / "label",
    whole,
    served(server),
    store={"store_dir": str(tmp_path / "beam" / "store")},
  )
  assert merged["answered"] == 24
  again = label(tmp_path / "beam", pattern, served(server))
  assert again["requested"] == 1  # the one without a label, which costs nothing
  assert again["usage"] == merged["usage"]
  assert server.received.total() == asked


def test_a_model(world, tmp_path):
  pattern, whole = write_pairs(tmp_path, 8)
  config = pairwise_judge.PairwiseJudgeConfig(
    template="docstring_pairwise", max_context_tokens=150
  )
  labeler = labelers.LabelerConfig(labeler_dir=str(world / "sft" / "model"))
  ours = label(tmp_path / "beam", pattern, labeler, judge=config)
  label_here(tmp_path / "label", whole, labeler, judge=config)
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
  done = label(tmp_path / "likely", pattern, labeler, judge=likely)
  assert done["answered"] == 9 and done["usage"]["requests"] > 0


def test_a_pipeline_that_fails_says_so_and_resumes(tmp_path, monkeypatch):
  pattern, _ = write_pairs(tmp_path)
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  with pytest.raises(ValueError, match="holds no API key"):
    endpoint = endpoint_config.EndpointConfig(model="m")
    label(tmp_path / "out", pattern, labelers.LabelerConfig(endpoint=endpoint))
  is_down = True

  def plan(prompt, attempt):
    return "500" if is_down and "doc 7" in prompt else ""

  with faulty_server.FaultyServer(plan=plan) as server:
    settings = {"shards": 1, "store": {"chunk_size": 1}}
    with pytest.raises(OSError, match="2 of 2 prompts failed"):
      label(tmp_path / "out", pattern, served(server), **settings)
    paid = server.served.total()
    is_down = False
    result = label(tmp_path / "out", pattern, served(server), **settings)
    assert 0 < paid < server.served.total() == result["usage"]["requests"]
    assert max(server.served.values()) == 1


def test_the_error_of_a_remote_worker_is_shown(tmp_path, server, monkeypatch):
  pattern, _ = write_pairs(tmp_path)

  def fails(*arguments, **settings):
    raise RuntimeError(
      "Traceback\n  many lines\nValueError: the worker's own\n"
    )

  monkeypatch.setattr(beam_files, "label_files", fails)
  message = "failed: .ValueError: the worker's own.*same command again"
  with pytest.raises(ValueError, match=message):
    label(tmp_path / "out", pattern, served(server))


def test_a_stop_is_no_failure(tmp_path, server, monkeypatch):
  pattern, _ = write_pairs(tmp_path)
  monkeypatch.setattr(preemption, "requested", lambda: True)
  with pytest.raises(preemption.Preempted, match="label: stopped"):
    label(tmp_path / "out", pattern, served(server))
  monkeypatch.undo()
  assert label(tmp_path / "out", pattern, served(server))["requested"] > 0
  assert max(server.served.values()) == 1


def test_labels_elsewhere_are_not_merged(tmp_path, server, monkeypatch):
  pattern, _ = write_pairs(tmp_path)
  monkeypatch.setattr(beam_files, "is_local", lambda path: False)
  there = tmp_path / "there"
  result = label(
    tmp_path / "out", pattern, served(server), labels_dir=f"{there}/"
  )
  assert result["labels"] == f"{there}/labels-*.jsonl"
  # The mark of the folder that this run may write to.
  assert os.listdir(tmp_path / "out") == ["labels_dir.json"]
  assert (there / "store").is_dir()
  assert "local files" in dry_run("gs://b/x")
  monkeypatch.setattr(beam_files, "read_rows", lambda pattern: iter(()))
  with pytest.raises(ValueError, match="set BeamConfig.labels_dir"):
    label(tmp_path / "out", pattern, served(server))


def test_a_dry_run_counts_and_calls_nobody(tmp_path):
  pattern, _ = write_pairs(tmp_path)
  text = dry_run(pattern, prices=PRICES)
  assert "25 pairs, 48 requests" in text and "US dollars" in text
  assert "once no-* exists" in dry_run("no-*")
  assert "once no-model exists" in dry_run(pattern, labeler_dir="no-model")


def test_settings_are_checked_before_anything_starts(tmp_path, server):
  pattern, _ = write_pairs(tmp_path)
  with pytest.raises(ValueError, match="set exactly one"):
    label(tmp_path / "out", pattern, labelers.LabelerConfig())
  with pytest.raises(ValueError, match="likelihoods of given texts"):
    label(
      tmp_path / "out",
      pattern,
      served(server),
      judge=likelihood_judge.LikelihoodJudgeConfig(),
    )
  with pytest.raises(ValueError, match="supports none of them"):
    label(tmp_path / "out", pattern, served(server), store={"budget_usd": 1.0})
  (tmp_path / "none.jsonl").write_text("\n")
  with pytest.raises(ValueError, match="has no pairs"):
    label(tmp_path / "o", str(tmp_path / "none.jsonl"), served(server))
  assert not server.received


def test_labels_of_another_run_are_not_replaced(tmp_path, server):
  pattern, _ = write_pairs(tmp_path)
  shared, mark = tmp_path / "shared", tmp_path / "run" / "labels_dir.json"
  beam_pipeline._claim(str(shared), mark)
  shared.mkdir()
  theirs = shared / "labels-00000-of-00001.jsonl"
  theirs.write_text("{}\n")
  with pytest.raises(ValueError, match="labels of another run"):
    label(tmp_path / "new", pattern, served(server), labels_dir=f"{shared}/")
  assert theirs.read_text() == "{}\n" and not server.received
  assert not (tmp_path / "new" / "labels_dir.json").exists()
  beam_pipeline._claim(str(shared), mark)  # Its own, after a kill.
