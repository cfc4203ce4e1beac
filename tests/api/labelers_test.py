# SPDX-License-Identifier: Apache-2.0
"""Labelers: loading, filling a store, committing the journal."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.api import labelers
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.labeling import pair_source
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.text import estimates
from tests import testing
from tests.api import own_judge
from tests.labeling import faulty_server


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
  """No text, and half a surrogate pair, in a file and in memory."""
  good = '{"id": "p0", "context": "c", "first": "a", "second": "bb"}'
  rows = [good, good.replace('"c"', "7"), good.replace('"a"', '"\\ud800"')]
  path = tmp_path / "pairs.jsonl"
  path.write_text("\n".join(rows) + "\n")
  quarantine = jsonl.Quarantine()
  source = pair_source.PairSource(pairs_file=str(path))
  found = list(source.read(quarantine))
  assert [pair.first for pair in found] == ["a"]
  assert [row["where"] for row in quarantine.rows] == [f"{path}:2", f"{path}:3"]
  found.append(dataclasses.replace(found[0], id="p1", first="\ud800"))
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


PRICES = costs.Prices(input_usd_per_1k=0.5, output_usd_per_1k=1.0)


def label_served(server, directory, budget_usd, **settings):
  """Labels 40 pairs at a server of tests; returns the usage."""
  served = endpoint_config.EndpointConfig(
    model="m", base_url=server.url, first_backoff_seconds=0.01
  )
  loaded = labelers.load_labeler(
    labelers.LabelerConfig(endpoint=served, prices=PRICES),
    journal_file=f"{directory}/journal.jsonl",
  )
  quarantine = jsonl.Quarantine()
  try:
    stored = labelers.label_pairs(
      lambda: pairs(40),
      loaded,
      pairwise_judge.PairwiseJudgeConfig(**settings),
      labelers.StoreConfig(chunk_size=30, budget_usd=budget_usd),
      store_dir=f"{directory}/store",
      quarantine=quarantine,
    )
    assert len(list(stored.labels(pairs(40)))) == 40 and not quarantine.rows
    stored.close()
    return stored.usage
  finally:
    loaded.served.close()


MILLIONS = {"prompt_tokens": 10**12, "completion_tokens": 10**12}
NEGATIVE = {"prompt_tokens": -(10**6), "completion_tokens": 1}


@pytest.mark.parametrize("usage", [True, False, MILLIONS, NEGATIVE])
def test_a_budget_holds_whatever_the_server_reports(tmp_path, usage):
  pytest.importorskip("openai")
  with faulty_server.FaultyServer(usage=usage, seconds=0.002) as server:
    with pytest.raises(preemption.Preempted, match="raise budget_usd"):
      label_served(server, tmp_path, 1.0)
    first = server.received.total()
    # A little more pays for a few more, and for nothing twice.
    with pytest.raises(preemption.Preempted, match="raise budget_usd"):
      label_served(server, tmp_path, 1.5)
    second = server.received.total()
    total = label_served(server, tmp_path, 1000.0)
  assert set(server.received.values()) == {1}
  assert total.requests == server.received.total() == 80
  assert total.estimated == (0 if usage is True else 80)
  mean = PRICES.cost_usd(total) / 80
  # It stops where the next request could cost 60 cents at most.
  assert 0.4 - mean < first * mean < 1.01 and first < second < 80
  assert second * mean < 1.51


def test_a_budget_holds_with_rationales_and_faults(tmp_path):
  pytest.importorskip("openai")
  plan = lambda prompt, attempt: "" if attempt else "empty"
  with faulty_server.FaultyServer(plan=plan) as server:
    settings = dict(chain_of_thought=True, max_rationale_tokens=9)
    with pytest.raises(preemption.Preempted, match="raise budget_usd"):
      label_served(server, tmp_path, 2.0, **settings)
    received = server.received.total()
    total = label_served(server, tmp_path, 1000.0, **settings)
  # Each prompt fails once, is billed, and is answered then.
  billed = sum(len(prompt) * n for prompt, n in server.received.items())
  assert total.requests == 160 and total.input_tokens == billed
  assert set(server.received.values()) == {2}
  mean = PRICES.cost_usd(total) / 320
  assert 1.0 < received * mean < 2.1


def test_a_budget_needs_prices(tmp_path):
  labeler = Journaled()
  with pytest.raises(ValueError, match="all prices are 0"):
    labelers.label_pairs(
      pairs,
      labeler.open(),
      pairwise_judge.PairwiseJudgeConfig(),
      labelers.StoreConfig(budget_usd=1.0),
      store_dir=str(tmp_path),
      quarantine=jsonl.Quarantine(),
    )
  assert not labeler.backend.calls


def test_settings_of_a_store():
  with pytest.raises(ValueError, match="chunk_size is 0"):
    labelers.StoreConfig(chunk_size=0)
  with pytest.raises(ValueError, match="budget_usd is -1"):
    labelers.StoreConfig(budget_usd=-1.0)


def test_an_own_backend_labels_by_import_path(tmp_path):
  """The example of docs/guides/label.md, word for word."""
  config = labelers.LabelerConfig(backend="tests.api.own_judge:OwnJudge")
  judge = pairwise_judge.PairwiseJudgeConfig(template="docstring_pairwise")
  labelers.check(config, judge)
  asked = [
    records.Pair(id="0", context="c", first="short", second="much longer"),
    records.Pair(id="1", context="c", first="much longer", second="short"),
  ]
  stored = labelers.label_pairs(
    lambda: iter(asked),
    labelers.load_labeler(config, journal_file=""),
    judge,
    labelers.StoreConfig(),
    store_dir=str(tmp_path),
    quarantine=jsonl.Quarantine(),
  )
  labels = list(stored.labels(asked))
  assert labels[0].p_first > 0.7 and labels[1].p_first == 1 - labels[0].p_first
  assert labels[0].labeler.startswith("shorter@1")
  source = pathlib.Path(own_judge.__file__).read_text("utf-8")
  _, _, example = source.partition("\n")
  guide = pathlib.Path("docs/guides/label.md").read_text("utf-8")
  assert example in guide and len(example.splitlines()) < 40


@pytest.mark.parametrize(
  "path, words",
  [
    ("tests.api.own_judge:Missing", "has no 'Missing'"),
    ("collections:Counter", "has no name, score_options"),
  ],
)
def test_an_own_backend_that_is_none_is_named(path, words):
  config = labelers.LabelerConfig(backend=path)
  with pytest.raises(ValueError, match=words):
    labelers.load_labeler(config, journal_file="")
