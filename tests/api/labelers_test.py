# SPDX-License-Identifier: Apache-2.0
"""Labelers: loading, filling a store, committing the journal."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.api import labelers
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.labeling import pair_source
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.text import estimates
from tests import testing


def pairs(count=8):
  for i in range(count):
    yield records.Pair(id=f"p{i}", context=f"doc {i}", first="a", second="b")


class Journaled:
  """A labeler that records the commits of its journal."""

  def __init__(self, log_prob=lambda prompt, option: -1.0):
    self.commits = []
    self.backend = testing.ScriptedBackend(log_prob)

  def open(self):
    return labelers.Labeler(
      backend=self.backend,
      tokenizer=estimates.EstimatedTokenizer(),
      commit=self.commits.append,
    )


def label(labeler, directory, *, stream=pairs, quarantine=None):
  return labelers.label_pairs(
    stream,
    labeler.open(),
    pairwise_judge.PairwiseJudgeConfig(),
    labelers.StoreConfig(chunk_size=3),
    store_dir=str(directory),
    quarantine=quarantine or jsonl.Quarantine(),
  )


def test_the_journal_is_committed_after_each_chunk_that_was_asked(tmp_path):
  first = Journaled()
  labels = label(first, tmp_path)
  assert first.commits == [True, True, True]
  assert len(list(labels.labels(pairs()))) == 8
  labels.close()
  # Chunks from the store commit nothing: the journal is a later chunk's.
  again = Journaled()
  label(again, tmp_path, stream=lambda: pairs(11)).close()
  assert again.commits == [True, True]
  assert again.backend.calls and len(again.backend.calls) == 2


def test_a_chunk_with_a_missing_label_keeps_its_answers(tmp_path):
  def log_prob(prompt, option):
    return float("nan") if "doc 4" in prompt else -1.0

  quarantine = jsonl.Quarantine()
  labeler = Journaled(log_prob)
  label(labeler, tmp_path, quarantine=quarantine)
  assert labeler.commits == [True, False, True]
  assert [row["row"]["id"] for row in quarantine.rows] == ["p4"]


def test_a_polite_stop_keeps_what_is_done(tmp_path, monkeypatch):
  monkeypatch.setattr(preemption, "requested", lambda: True)
  labeler = Journaled()
  with pytest.raises(preemption.Preempted, match="after 3 pairs"):
    label(labeler, tmp_path)
  monkeypatch.undo()
  label(labeler, tmp_path)
  assert [len(call) for call in labeler.backend.calls] == [6, 6, 4]


def test_bad_rows_of_any_kind_end_no_job(tmp_path):
  """No text, and half a surrogate pair, in a file or in a program."""
  good = '{"id": "p0", "context": "c", "first": "a", "second": "bb"}'
  rows = [good, good.replace('"c"', "7"), good.replace('"a"', '"\\ud800"')]
  path = tmp_path / "pairs.jsonl"
  path.write_text("\n".join(rows) + "\n")
  quarantine = jsonl.Quarantine()
  source = pair_source.PairSource(pairs_file=str(path))
  found = list(source.read(quarantine))
  assert [pair.first for pair in found] == ["a"]
  first, second = quarantine.counts()
  assert first == "Pair: context is 7; it must be a text"
  assert second.startswith("a text is not Unicode")
  found.append(records.Pair(id="s", context="c", first="\ud800", second="b"))
  backend = testing.ScriptedBackend(lambda prompt, option: -1.0)
  stored = labelers.label_pairs(
    lambda: iter(found),
    labelers.Labeler(backend=backend, tokenizer=testing.CharTokenizer()),
    pairwise_judge.PairwiseJudgeConfig(template="summary_base"),
    labelers.StoreConfig(),
    store_dir=str(tmp_path / "store"),
    quarantine=quarantine,
  )
  assert [label.first for label in stored.labels(found)] == ["a"]
  assert sum("invalid Unicode" in reason for reason in quarantine.counts()) == 1


def test_a_served_model_counts_by_estimate():
  found = labelers.LabelerConfig().load_tokenizer()
  assert isinstance(found, estimates.EstimatedTokenizer)


def test_labels_of_other_settings_of_an_endpoint_are_other_labels(tmp_path):
  pytest.importorskip("openai")

  def name(**settings):
    config = endpoint_config.EndpointConfig(
      model="m", base_url="http://127.0.0.1:9/v1", **settings
    )
    opened = labelers.load_labeler(
      labelers.LabelerConfig(endpoint=config),
      journal_file=f"{tmp_path}/journal.jsonl",
    )
    return opened.backend.name

  plain = name(max_retries=1)
  assert plain == name() == "endpoint:127.0.0.1:9/m"
  other = name(api="completions", top_logprobs=5)
  assert other == f"{plain} (api=completions, top_logprobs=5)"


def test_a_labeler_and_a_judge_that_it_supports():
  pairwise = pairwise_judge.PairwiseJudgeConfig()
  model = labelers.LabelerConfig(labeler_dir="m")
  labelers.check(model, pairwise)
  labelers.check(model, likelihood_judge.LikelihoodJudgeConfig())
  served = endpoint_config.EndpointConfig(model="m", base_url="http://h/v1")
  endpoint = labelers.LabelerConfig(endpoint=served)
  labelers.check(endpoint, pairwise)
  with pytest.raises(ValueError, match="likelihoods of given texts"):
    labelers.check(endpoint, likelihood_judge.LikelihoodJudgeConfig())
  both = labelers.LabelerConfig(labeler_dir="m", endpoint=served)
  for config in (both, labelers.LabelerConfig()):
    with pytest.raises(ValueError, match="set exactly one"):
      labelers.check(config, pairwise)
  with pytest.raises(ValueError, match="judge is not set"):
    labelers.check(model, None)


def test_settings_of_a_store():
  with pytest.raises(ValueError, match="chunk_size is 0"):
    labelers.StoreConfig(chunk_size=0)
  with pytest.raises(ValueError, match="budget_usd is -1"):
    labelers.StoreConfig(budget_usd=-1.0)
