# SPDX-License-Identifier: Apache-2.0
"""What the labelling jobs share: streams of pairs, the store, the journal."""

from __future__ import annotations

import pathlib
import typing

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.api import labelers
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.text import estimates
from tests import testing


def pairs(count=8):
  for i in range(count):
    yield records.Pair(id=f"p{i}", context=f"doc {i}", first="a", second="b")


class Journaled:
  """A labeler that notes when its journal is settled."""

  def __init__(self, log_prob=lambda prompt, option: -1.0):
    self.settled = []
    self.backend = testing.ScriptedBackend(log_prob)

  def open(self):
    return labelers.Labeler(
      backend=self.backend,
      tokenizer=estimates.EstimatedTokenizer(),
      settle=self.settled.append,
    )


def label(labeler, directory, *, stream=pairs, quarantine=None):
  return labelers.label(
    stream,
    labeler.open(),
    pairwise_judge.PairwiseJudgeConfig(),
    store_dir=str(directory),
    chunk_size=3,
    quarantine=quarantine or jsonl.Quarantine(),
  )


def test_every_kind_of_judge_has_its_module():
  assert set(labelers.JUDGING) == set(typing.get_args(labelers.Judge))
  for module in labelers.JUDGING.values():
    assert callable(module.judge_pairs) and callable(module.expected_usage)


def test_the_journal_is_settled_after_each_chunk_that_was_asked(tmp_path):
  first = Journaled()
  labels = label(first, tmp_path)
  assert first.settled == [True, True, True]
  assert len(list(labels.labels(pairs()))) == 8
  labels.close()
  # Chunks that are known settle nothing: the journal is a later chunk's.
  again = Journaled()
  label(again, tmp_path, stream=lambda: pairs(11)).close()
  assert again.settled == [True, True]
  assert again.backend.calls and len(again.backend.calls) == 2


def test_a_chunk_with_a_missing_label_keeps_its_answers(tmp_path):
  def log_prob(prompt, option):
    return float("nan") if "doc 4" in prompt else -1.0

  quarantine = jsonl.Quarantine()
  labeler = Journaled(log_prob)
  label(labeler, tmp_path, quarantine=quarantine)
  assert labeler.settled == [True, False, True]
  assert [row["row"]["id"] for row in quarantine.rows] == ["p4"]


def test_a_polite_stop_keeps_what_is_done(tmp_path, monkeypatch):
  monkeypatch.setattr(preemption, "requested", lambda: True)
  labeler = Journaled()
  with pytest.raises(preemption.Preempted, match="after 3 pairs"):
    label(labeler, tmp_path)
  monkeypatch.undo()
  label(labeler, tmp_path)
  assert [len(call) for call in labeler.backend.calls] == [6, 6, 4]


def test_shards_part_the_pairs_by_their_texts(tmp_path):
  path = str(tmp_path / "pairs.jsonl")
  jsonl.write_records(path, pairs(64))
  parts = [
    [p.id for p in labelers.read_pairs(path, shard=f"{k}/3")] for k in range(3)
  ]
  assert sorted(sum(parts, [])) == sorted(p.id for p in pairs(64))
  assert min(map(len, parts)) > 10
  few = [
    p.id
    for k in range(3)
    for p in labelers.read_pairs(path, limit=5, shard=f"{k}/3")
  ]
  assert sorted(few) == [f"p{i}" for i in range(5)]
  renamed = [
    records.Pair(id="x", context=p.context, first=p.first, second=p.second)
    for p in pairs(64)
  ]
  jsonl.write_records(path, renamed)
  assert len(list(labelers.read_pairs(path, shard="0/3"))) == len(parts[0])


def test_pairs_that_humans_have_labelled_are_pairs(tmp_path):
  path = str(tmp_path / "preferences.jsonl")
  labelled = [
    records.Preference(
      **records.to_row(pair), p_first=1.0, labeler="human", confidence=9
    )
    for pair in pairs(3)
  ]
  jsonl.write_records(path, labelled)
  assert list(labelers.read_pairs(path)) == list(pairs(3))
  # Unknown names are an error where no label stands beside them.
  pathlib.Path(path).write_text('{"id": "a", "context": "b", "frist": "c"}\n')
  with pytest.raises(ValueError, match="frist"):
    list(labelers.read_pairs(path))


def test_bad_rows_of_any_kind_end_no_job(tmp_path):
  """No text, and half a surrogate pair: the one found here, the other asked."""
  good = '{"id": "p0", "context": "c", "first": "a", "second": "bb"}'
  rows = [good, good.replace('"c"', "7"), good.replace('"a"', '"\\ud800"')]
  path = tmp_path / "pairs.jsonl"
  path.write_text("\n".join(rows) + "\n")
  quarantine = jsonl.Quarantine()
  found = list(labelers.read_pairs(str(path), quarantine=quarantine))
  assert [pair.first for pair in found] == ["a", "\ud800"]
  assert quarantine.counts() == {"Pair: context is 7; it should be a text": 1}
  backend = testing.ScriptedBackend(lambda prompt, option: -1.0)
  stored = labelers.label(
    lambda: iter(found),
    labelers.Labeler(backend=backend, tokenizer=testing.CharTokenizer()),
    pairwise_judge.PairwiseJudgeConfig(template="summary_base"),
    store_dir=str(tmp_path / "store"),
    quarantine=quarantine,
  )
  assert [label.first for label in stored.labels(found)] == ["a"]
  assert sum("no Unicode" in reason for reason in quarantine.counts()) == 1


def test_a_served_model_counts_by_estimate():
  found = labelers.open_tokenizer("", "")
  assert isinstance(found, estimates.EstimatedTokenizer)


def test_labels_of_other_settings_of_an_endpoint_are_other_labels(tmp_path):
  pytest.importorskip("openai")

  def name(**settings):
    config = endpoint_config.EndpointConfig(
      model="m", base_url="http://127.0.0.1:9/v1", **settings
    )
    opened = labelers.open_labeler(
      endpoint=config, journal_file=f"{tmp_path}/answers.jsonl", mesh=""
    )
    return opened.backend.name

  plain = name(max_retries=1)
  assert plain == name() == "endpoint:127.0.0.1:9/m"
  other = name(api="completions", top_logprobs=5)
  assert other == f"{plain} (api=completions, top_logprobs=5)"
