# SPDX-License-Identifier: Apache-2.0
"""Iterations learn from the chosen pairs and resume after a stop."""

from __future__ import annotations

import json
import shutil

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.data import datasets
from rlaif_jax.engine import decode
from rlaif_jax.api import online_preferences
from rlaif_jax.api import online_rounds
from rlaif_jax.jobs import sample_responses
from rlaif_jax.api import reward_loading
from rlaif_jax.jobs import train_dpo
from rlaif_jax.jobs import train_online_dpo
from tests import tiny_world as tiny
from tests.api import online_preferences_test


@pytest.fixture(scope="module")
def reward(world, tmp_path_factory):
  directory = tmp_path_factory.mktemp("reward")
  trained = tiny.reward(world, directory)
  return online_preferences.RoundJudge(
    scorer=reward_loading.ScorerConfig(reward_dir=trained["model"])
  )


def run(world, directory, judge, **changes):
  rounds = dict(
    rounds=2,
    contexts=12,
    num_samples=8,
    length_penalty=1.0,
    sampling=decode.SamplingConfig(max_tokens=8),
  )
  return train_online_dpo.run(
    output_dir=str(directory),
    policy_dir=str(world / "sft" / "model"),
    judge=judge,
    rounds=online_rounds.RoundsConfig(**{**rounds, **changes}),
    examples=datasets.ExampleSource(
      examples_file=str(world / "examples.jsonl")
    ),
    optimizer=tiny.ADAM,
    train=tiny.train_config(epochs=6.0, save_every=2),
  )


@pytest.fixture(scope="module")
def start(world, tmp_path_factory):
  """A policy that writes whole words, whose texts are its tokens again."""
  directory = tmp_path_factory.mktemp("start")
  for name in ("examples.jsonl", "tokenizer.model"):
    shutil.copy(world / name, directory)
  tiny.sft(directory, train=tiny.train_config(num_steps=60, save_every=60))
  return directory


@pytest.fixture(scope="module")
def trained(start, reward, tmp_path_factory):
  """The directory, the result, and how samples were asked for."""
  directory, asked = tmp_path_factory.mktemp("online"), []
  sample = sample_responses.run

  def spy(**how):
    asked.append(how)
    return sample(**how)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sample_responses, "run", spy)
    result = run(start, directory, reward)
  return directory, result, asked


def read(path, record=dict):
  return jsonl.parse_rows(path, record)


def test_what_is_chosen_is_learned_and_each_round_is_there(start, trained):
  directory, result, _ = trained
  rows = read(directory / "rounds.jsonl")
  assert rows == result["rounds"] and [r["round"] for r in rows] == [1, 2, 3]
  assert rows[0]["longer_by"] < -3 and "score" in rows[0]
  assert rows[-1]["mean_tokens"] < rows[0]["mean_tokens"] - 2
  assert rows[0]["finished"] < 0.9 and rows[-1]["finished"] == 1.0
  assert abs(rows[0]["kl"]) < 1e-4 and rows[-1]["kl"] > 0.05
  assert rows[0]["policy"] == str(start / "sft" / "model")
  for number in (1, 2):
    folder = directory / f"round_{number}"
    for part, count in (("warm", 4), ("cool", 4)):
      samples = read(folder / part / "responses.jsonl")
      assert len(samples) == 12 * count
    labels = jsonl.read_records(records.Preference, folder / "labels.jsonl")
    assert len(labels) == rows[number - 1]["pairs"] > 4
    head, *_ = read(folder / "dpo/reference.jsonl")
    start_model = checkpoint.identity_of(start / "sft" / "model")
    assert head["reference"] == start_model, "in every round"
    assert rows[number]["policy"] == str(folder / "dpo" / "model")
  # The samples of a round are those of its own policy, and other contexts'.
  first, second = (
    {e["id"] for e in read(directory / f"round_{n}/examples.jsonl")}
    for n in (1, 2)
  )
  assert len(first | second) == 24
  described = json.loads((directory / "model/model.json").read_text())
  assert described["kind"] == "language"


def test_half_of_the_samples_are_cool_and_all_are_drawn_anew(trained):
  directory, result, asked = trained
  assert [how["sampling"].temperature for how in asked] == [1.0, 0.7] * 3
  assert len({how["seed"] for how in asked}) == 6
  policies = [row["policy"] for row in result["rounds"]]
  assert [how["policy_dir"] for how in asked[::2]] == policies
  assert [how["policy_dir"] for how in asked[1::2]] == policies
  folder = directory / "round_1"
  warm, cool = (
    [row["text"] for row in read(folder / part / "responses.jsonl")]
    for part in ("warm", "cool")
  )
  labels = jsonl.read_records(records.Preference, folder / "labels.jsonl")
  texts = {text for row in labels for text in (row.first, row.second)}
  assert texts - set(warm) and texts - set(cool), "both are judged"


def test_stopped_anywhere_it_ends_with_the_same_bytes(
  start, reward, trained, tmp_path, monkeypatch
):
  # In sampling, in DPO of the first round, and in the second.
  stops = 0
  for stop in (0, 5, 8):
    calls = iter([False] * stop + [True])
    with monkeypatch.context() as patch:
      patch.setattr(preemption, "requested", lambda c=calls: next(c, False))
      with pytest.raises(preemption.Preempted):
        run(start, tmp_path, reward)
    stops += 1
  shutil.rmtree(tmp_path / "round_1" / "judged", ignore_errors=True)
  run(start, tmp_path, reward)
  assert stops == 3
  for name in (
    "round_1/labels.jsonl",
    "round_1/dpo/metrics.jsonl",
    "round_2/labels.jsonl",
    "round_2/dpo/metrics.jsonl",
    "round_3/warm/responses.jsonl",
  ):
    assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()
  with monkeypatch.context() as patch:  # What is done is not done again.
    patch.setattr(sample_responses, "run", None)
    patch.setattr(train_dpo, "run", None)
    assert len(run(start, tmp_path, reward)["rounds"]) == 3


def test_two_samples_a_labeler_and_the_previous_policy(world, tmp_path):
  judge = online_preferences.RoundJudge(
    labeler_dir=str(world / "sft" / "model"),
    judge=online_preferences_test.JUDGE,
  )
  result = run(
    world,
    tmp_path,
    judge,
    reference="previous",
    num_samples=2,
    low_temperature=0.0,
    contexts=8,
  )
  assert "score" not in result["rounds"][0]
  assert not (tmp_path / "round_1/cool").exists()
  head, *_ = read(tmp_path / "round_2/dpo/reference.jsonl")
  first = checkpoint.identity_of(tmp_path / "round_1/dpo/model")
  assert head["reference"] == first and first.startswith("online_dpo_1@")
  labels = jsonl.read_records(
    records.Preference, tmp_path / "round_1/labels.jsonl"
  )
  assert all(0 < row.p_first < 1 for row in labels), "the labeler's own"
  assert {row.labeler for row in labels} == {
    checkpoint.identity_of(judge.labeler_dir)
  }


def test_a_judge_that_cannot_tell_is_an_error(world, tmp_path):
  greedy = decode.SamplingConfig(max_tokens=8, temperature=0.0)
  judge = online_preferences.RoundJudge(
    labeler_dir=str(world / "sft" / "model"),
    judge=online_preferences_test.JUDGE,
  )
  with pytest.raises(ValueError, match="round_1: all samples of each"):
    run(
      world,
      tmp_path,
      judge,
      sampling=greedy,
      low_temperature=0.0,
      num_samples=2,
    )
