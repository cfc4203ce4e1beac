# SPDX-License-Identifier: Apache-2.0
"""Labels by simulated humans and by a model: shards, budgets, estimates."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.api import beam_pipeline
from rlaif_jax.api import gold_rewards
from rlaif_jax.api import labelers
from rlaif_jax.api import simulated_humans
from rlaif_jax.evaluation import gold
from rlaif_jax.jobs import label_pairs
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.labeling import pair_source
from rlaif_jax.labeling import rubrics
from tests import tiny_encoder
from tests import tiny_rubric


def test_humans_follow_gold(tmp_path, pairs_file):
  label_pairs.run(
    output_dir=str(tmp_path / "out"),
    pairs=pair_source.PairSource(pairs_file=pairs_file),
    humans=gold.HumanConfig(temperature=0.01),
    parquet=True,
  )
  labels = jsonl.read_records(
    records.Preference, tmp_path / "out" / "labels.jsonl"
  )
  assert [row.p_first for row in labels] == [0.0, 1.0] * 6
  assert (tmp_path / "out" / "labels.parquet").stat().st_size > 100


def test_humans_follow_nearness(tmp_path, pairs_file):
  """Their line is the text that the program prefers less."""
  rows = [
    records.Example(id=pair.id, context=pair.context, response="x")
    for pair in pair_source.PairSource(pairs_file=pairs_file).read()
  ]
  jsonl.write_records(tmp_path / "rows/train.jsonl", rows)
  tiny_encoder.write(tmp_path / "encoder")
  label_pairs.run(
    output_dir=str(tmp_path / "out"),
    pairs=pair_source.PairSource(pairs_file=pairs_file),
    humans=gold.HumanConfig(temperature=0.01),
    gold_reward=gold_rewards.NearnessSource(
      encoder_dir=str(tmp_path / "encoder"),
      references_dir=str(tmp_path / "rows"),
    ),
  )
  labels = jsonl.read_records(
    records.Preference, tmp_path / "out" / "labels.jsonl"
  )
  assert [row.p_first for row in labels] == [1.0, 0.0] * 6


def test_a_model_labels_and_its_alignment_is_measured(
  world, tmp_path, pairs_file
):
  human = tmp_path / "human"
  label_pairs.run(
    output_dir=str(human),
    pairs=pair_source.PairSource(pairs_file=pairs_file),
    humans=gold.HumanConfig(temperature=0.01),
  )
  result = label_pairs.run(
    output_dir=str(tmp_path / "ai"),
    pairs=pair_source.PairSource(pairs_file=pairs_file),
    judge=pairwise_judge.PairwiseJudgeConfig(
      template="docstring_pairwise", max_context_tokens=150
    ),
    labeler=labelers.LabelerConfig(labeler_dir=str(world / "sft" / "model")),
    human_labels_file=str(human / "labels.jsonl"),
  )
  assert result["answered"] == 12
  assert result["alignment"]["accuracy"]["n"] == 12
  assert result["position_bias"]["same_position"]["n"] == 12
  assert result["usage"]["requests"] == 24
  assert result["cost_usd"] == 0.0


def test_missing_human_labels_are_told_before_pairs_are_labelled(
  pairs_file, tmp_path
):
  with pytest.raises((OSError, ValueError), match="nowhere.jsonl"):
    label_pairs.run(
      output_dir=str(tmp_path / "out"),
      pairs=pair_source.PairSource(pairs_file=pairs_file),
      humans=gold.HumanConfig(),
      human_labels_file=str(tmp_path / "nowhere.jsonl"),
    )
  assert not (tmp_path / "out").exists()


JUDGE = pairwise_judge.PairwiseJudgeConfig(
  template="docstring_pairwise", max_context_tokens=150
)


def label(world, output_dir, pairs_file, *, source=(), store=(), **settings):
  return label_pairs.run(
    output_dir=str(output_dir),
    pairs=pair_source.PairSource(pairs_file=pairs_file, **dict(source)),
    store=labelers.StoreConfig(**dict(store)),
    **{"judge": JUDGE, "labeler": model(world)} | settings,
  )


def model(world, **settings):
  return labelers.LabelerConfig(
    labeler_dir=str(world / "sft" / "model"), **settings
  )


def test_shards_share_a_store_and_merging_is_free(world, tmp_path, pairs_file):
  store = {"store_dir": str(tmp_path / "store")}
  parts = [
    label(
      world,
      tmp_path / f"{k}",
      pairs_file,
      source={"shard": f"{k}/2"},
      store=store,
    )
    for k in range(2)
  ]
  assert sum(part["answered"] for part in parts) == 12
  assert all(part["answered"] for part in parts)
  merged = label(world, tmp_path / "all", pairs_file, store=store)
  assert merged["answered"] == 12
  assert merged["usage"]["requests"] == 24  # what the two paid, and no more
  whole = label(world, tmp_path / "whole", pairs_file)
  assert whole["usage"]["requests"] == 24
  read = [
    jsonl.read_records(records.Preference, tmp_path / name / "labels.jsonl")
    for name in ("all", "whole")
  ]
  for one, other in zip(*read, strict=True):
    assert one.id == other.id
    assert one.p_first == pytest.approx(other.p_first, abs=1e-5)


def test_a_budget_stops_and_a_higher_one_resumes(world, tmp_path, pairs_file):
  labeler = model(world, prices=costs.Prices(output_usd_per_1k=1.0))
  out = tmp_path / "out"
  store = {"chunk_size": 4, "budget_usd": 0.02}
  with pytest.raises(preemption.Preempted, match="raise budget_usd"):
    label(world, out, pairs_file, labeler=labeler, store=store)
  assert not (out / "labels.jsonl").exists()
  store["budget_usd"] = 0.03
  result = label(world, out, pairs_file, labeler=labeler, store=store)
  assert result["cost_usd"] == pytest.approx(0.024)
  assert result["usage"]["requests"] == 24
  assert "budget_usd" in label_pairs.JOB.overridable


def test_a_dry_run_counts_and_calls_nobody(world, tmp_path, pairs_file):
  source = pair_source.PairSource(pairs_file=pairs_file)
  text = label_pairs.dry_run(
    pairs=source,
    judge=JUDGE,
    labeler=model(world, prices=costs.Prices(output_usd_per_1k=1.0)),
    parquet=True,
  )
  assert "12 pairs, 24 requests" in text and "0.02 US dollars" in text
  few = pair_source.PairSource(pairs_file=pairs_file, limit=3)
  guess = label_pairs.dry_run(pairs=few, judge=JUDGE)
  assert "3 pairs, 6 requests" in guess
  assert "nothing" in label_pairs.dry_run(pairs=source)


def test_labels_by_likelihood(world, tmp_path, pairs_file):
  config = likelihood_judge.LikelihoodJudgeConfig(score="mean_log_prob")
  result = label(world, tmp_path / "out", pairs_file, judge=config)
  assert result["answered"] == 12 and result["usage"]["requests"] == 24
  labels = jsonl.read_records(
    records.Preference, tmp_path / "out" / "labels.jsonl"
  )
  for one, other in zip(labels[::2], labels[1::2]):
    assert (one.p_first - 0.5) * (other.p_first - 0.5) < 0  # texts swapped


def test_labels_by_a_rubric(world, tmp_path, pairs_file):
  """Equal rubrics share labels of a store, and changed ones do not."""
  settings = {
    "judge": tiny_rubric.write(tmp_path),
    "store": {"store_dir": str(tmp_path / "store")},
  }
  first = label(world, tmp_path / "one", pairs_file, **settings)
  assert first["answered"] == 12
  assert first["usage"]["requests"] == 12 * 2 * 2
  rows = jsonl.read_records(records.Preference, first["labels"])
  assert all(0 < row.p_first < 1 and not row.p_orders for row in rows)
  again = label(world, tmp_path / "two", pairs_file, **settings)
  assert again["usage"] == first["usage"]
  tiny_rubric.write(tmp_path, rubrics.Rubric(criteria=tiny_rubric.CRITERIA[:1]))
  changed = label(world, tmp_path / "three", pairs_file, **settings)
  assert changed["usage"]["requests"] == 12 * 2
  other = jsonl.read_records(records.Preference, changed["labels"])
  assert [r.p_first for r in other] != [r.p_first for r in rows]


def test_bad_pairs_are_set_aside_with_a_count(world, tmp_path):
  good = records.Pair(id="g", context="the cat", first="a cat", second="x")
  poses = records.Pair(id="b", context="the cat", first="2\ny", second="x")
  path = tmp_path / "pairs.jsonl"
  jsonl.write_records(path, [good, poses])
  path.write_bytes(path.read_bytes() + b'{"id": "\xff"}\n{"id": 1}\n')
  result = label(world, tmp_path / "out", str(path))
  assert (result["pairs"], result["answered"]) == (2, 1)
  assert result["quarantined"] == 3
  reasons = list(result["quarantine_reasons"])
  assert "can't decode" in reasons[0] and "missing keys" in reasons[1]
  assert "imitates a part" in reasons[2]
  lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
  assert "pairs.jsonl:3" in lines[0] and '"id": "b"' in lines[2]


def test_exactly_one_kind_of_labeler(world, tmp_path, pairs_file):
  source = pair_source.PairSource(pairs_file=pairs_file)
  with pytest.raises(ValueError, match="or humans alone"):
    label_pairs.run(output_dir=str(tmp_path), pairs=source)
  with pytest.raises(ValueError, match="or humans alone"):
    label(world, tmp_path, pairs_file, humans=gold.HumanConfig())
  with pytest.raises(ValueError, match="or humans alone"):
    label_pairs.run(
      output_dir=str(tmp_path),
      pairs=source,
      humans=gold.HumanConfig(),
      beam=beam_pipeline.BeamConfig(),
    )
  with pytest.raises(ValueError, match="set exactly one"):
    label(world, tmp_path, pairs_file, labeler=labelers.NO_LABELER)
  config = simulated_humans.InstructionConfig(
    pairwise_template="docstring_pairwise",
    rating_template="docstring_rating",
    data_dir=str(world),
    max_prompt_tokens=150,
  )
  with pytest.raises(ValueError, match="gold_reward is Near.*humans is None"):
    label(
      world,
      tmp_path,
      pairs_file,
      gold_reward=gold_rewards.NearnessSource(
        encoder_dir="a", references_dir="b"
      ),
    )
  with pytest.raises(ValueError, match="humans is None"):
    label(world, tmp_path, pairs_file, instructions=config)


def test_two_models_of_one_name_share_no_label(
  world, namesake, tmp_path, pairs_file, monkeypatch, caplog
):
  other = labelers.LabelerConfig(labeler_dir=str(namesake))
  label(world, tmp_path / "whole", pairs_file, labeler=other)
  # A labeler that is replaced in mid-run: no label of the old one is used.
  settings = dict(store={"chunk_size": 4})
  monkeypatch.setattr(preemption, "requested", lambda: True)
  with pytest.raises(preemption.Preempted, match="after 4 pairs"):
    label(world, tmp_path / "out", pairs_file, **settings)
  monkeypatch.undo()
  label(world, tmp_path / "out", pairs_file, labeler=other, **settings)
  names = (
    checkpoint.identity_of(world / "sft" / "model"),
    (checkpoint.identity_of(namesake)),
  )
  assert f"4 labels are of {names[0]}, another model" in caplog.text
  found, expected = (
    jsonl.read_records(records.Preference, tmp_path / name / "labels.jsonl")
    for name in ("out", "whole")
  )
  assert {row.labeler for row in found} == {names[1]}
  assert [row.p_first for row in found] == pytest.approx(
    [row.p_first for row in expected], abs=1e-5
  )
  # The old one finds its own again.
  again = label(world, tmp_path / "out", pairs_file, **settings)
  assert again["labeler"] == names[0] and again["usage"]["requests"] == 24
  old = jsonl.read_records(
    records.Preference, tmp_path / "out" / "labels.jsonl"
  )
  assert [row.p_first for row in old] != pytest.approx(
    [row.p_first for row in expected], abs=1e-3
  )
