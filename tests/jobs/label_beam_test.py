# SPDX-License-Identifier: Apache-2.0
"""The job in Beam: files in, the labels of the `label` job out."""

from __future__ import annotations

import gzip
import json

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.jobs import label_beam
from rlaif_jax.jobs import label_pairs
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import judge
from rlaif_jax.labeling import likelihood
from tests.labeling import faulty_server as fs

pytest.importorskip("apache_beam")

JUDGE = judge.JudgeConfig(template="summary_base")
KEY = "sk-canary-9876543210"


@pytest.fixture
def pairs(tmp_path, monkeypatch):
  """Sixty pairs in two files, one of them zipped, and a bad line."""
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  pairs = fs.make_pairs(60)
  folder = tmp_path / "in"
  jsonl.write_records(folder / "pairs-0.jsonl", pairs[:25])
  with open(folder / "pairs-0.jsonl", "ab") as f:
    f.write(b'{"id": "\xff"\n')
  jsonl.write_records(tmp_path / "rest.jsonl", pairs[25:])
  with gzip.open(folder / "pairs-1.jsonl.gz", "wb") as f:
    f.write((tmp_path / "rest.jsonl").read_bytes())
  jsonl.write_records(tmp_path / "all.jsonl", pairs)
  return pairs


def served(server):
  return endpoint_config.EndpointConfig(
    model="m",
    base_url=server.url,
    timeout_seconds=5.0,
    first_backoff_seconds=0.01,
    max_backoff_seconds=0.1,
    max_retries=10,
  )


def read(folder, name):
  return [
    json.loads(line)
    for path in sorted(folder.glob(f"{name}-*.jsonl"))
    for line in path.read_bytes().splitlines()
  ]


def test_a_served_model_gives_the_labels_of_the_label_job(pairs, tmp_path):
  prices = costs.Prices(input_usd_per_1k=1.0, output_usd_per_1k=1.0)
  plan = fs.random_plan(0.1)
  with fs.FaultyServer(plan=plan, slow_seconds=6.0) as server:
    settings = dict(
      output_dir=str(tmp_path / "beam"),
      pairs_pattern=str(tmp_path / "in" / "pairs-*"),
      judge=JUDGE,
      endpoint=served(server),
      prices=prices,
      batch_size=16,
    )
    result = label_beam.run(**settings)
    worked = server.worked.total()
    # The store has them: another start pays nothing.
    again = label_beam.run(**settings)
    assert server.worked.total() == worked
    alone = label_pairs.run(
      output_dir=str(tmp_path / "alone"),
      pairs_file=str(tmp_path / "all.jsonl"),
      judge=JUDGE,
      endpoint=served(server),
    )
  assert result["answered"] == again["answered"] == alone["answered"] == 60
  assert result["quarantined"] == 1
  assert result["usage"]["requests"] == 120 and result["cost_usd"] > 0
  assert again["usage"]["requests"] == 0 and again["cost_usd"] == 0.0
  rows = read(tmp_path / "beam", "labels")
  found = {row["id"]: records.from_row(records.Preference, row) for row in rows}
  wanted = jsonl.read_records(
    records.Preference, tmp_path / "alone" / "labels.jsonl"
  )
  assert len(rows) == 60
  assert [found[row.id] for row in wanted] == wanted
  (bad,) = read(tmp_path / "beam", "quarantine")
  assert "\\xff" in bad["row"]
  for path in (tmp_path / "beam").rglob("*"):
    assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_a_model_of_ones_own_by_likelihood(world, tmp_path):
  words = "the cat sat on a red hat with ten dogs near it all day".split()
  pairs = [
    records.Pair(
      id=f"p{i}",
      context=" ".join(words[i:]),
      first=" ".join(words[: 2 + i % 3]),
      second=" ".join(words[4 : 7 + i % 2]),
    )
    for i in range(6)
  ]
  jsonl.write_records(tmp_path / "pairs.jsonl", pairs)
  settings = {
    "judge": likelihood.LikelihoodConfig(
      score="mean_log_prob", max_context_tokens=100
    ),
    "labeler_dir": str(world / "sft" / "model"),
  }
  label_beam.run(
    output_dir=str(tmp_path / "beam"),
    pairs_pattern=str(tmp_path / "pairs.jsonl"),
    **settings,
  )
  label_pairs.run(
    output_dir=str(tmp_path / "alone"),
    pairs_file=str(tmp_path / "pairs.jsonl"),
    **settings,
  )
  found = {
    row["id"]: row["p_first"] for row in read(tmp_path / "beam", "labels")
  }
  wanted = jsonl.read_records(
    records.Preference, tmp_path / "alone" / "labels.jsonl"
  )
  assert found == {
    row.id: pytest.approx(row.p_first, abs=1e-5) for row in wanted
  }
  assert len(set(found.values())) == 6


def test_what_is_sent_to_workers_holds_no_key(pairs, tmp_path, monkeypatch):
  sent = []
  real = label_beam.beam_labels.label_pairs

  def watched(**settings):
    sent.append(label_beam.beam_labels.pickle.dumps(settings["open_answering"]))
    return real(**settings)

  monkeypatch.setattr(label_beam.beam_labels, "label_pairs", watched)
  with fs.FaultyServer() as server:
    label_beam.run(
      output_dir=str(tmp_path / "out"),
      pairs_pattern=str(tmp_path / "all.jsonl"),
      judge=JUDGE,
      endpoint=served(server),
    )
    assert server.url.encode() in sent[0] and KEY.encode() not in sent[0]


def test_one_labeler_is_needed(tmp_path):
  with pytest.raises(ValueError, match="either labeler_dir or endpoint"):
    label_beam.run(output_dir=str(tmp_path), pairs_pattern="x", judge=JUDGE)
