# SPDX-License-Identifier: Apache-2.0
"""Judges of samples, and the pairs that come of what they say."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rlaif_jax.api import loading
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import preferences
from rlaif_jax.engine import mesh
from rlaif_jax.model_io import pretrained
from rlaif_jax.api import online_preferences
from rlaif_jax.api import reward_loading
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.reward import kinds
from tests import tiny_world as tiny
from tests.api import reward_loading_test

JUDGE = pairwise_judge.PairwiseJudgeConfig(
  template="docstring_pairwise", max_context_tokens=150
)


def group(name, *texts):
  return [
    records.Response(
      id=name,
      index=i,
      context="a cat and a dog",
      text=text,
      tokens=len(text.split()),
      finished=True,
    )
    for i, text in enumerate(texts)
  ]


GROUPS = [
  group("1", "a cat sat", "ten dogs saw one", "the mat"),
  group("2", "red hat", "red hat", "near it ten cat"),
]


def scored(world, given, tmp_path, groups=GROUPS):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  return online_preferences.score_samples(
    groups,
    given,
    str(world / "sft" / "model"),
    devices,
    directory=tmp_path / "judged",
    batch_size=4,
  )


def test_a_scorer_says_what_it_says_in_rl(world, tmp_path):
  config = reward_loading_test.config(world)
  found = scored(world, online_preferences.RoundJudge(scorer=config), tmp_path)
  assert found.scores.shape == (2, 3) and found.win_probs is None
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  policy = pretrained.load(str(world / "sft" / "model"), "language", devices)
  score, params = reward_loading.make_scorer(config, policy, devices)
  expected = [
    reward_loading.score_texts(
      score, params, [response.context], [response.text], policy, 1
    )[0]
    for response in (*GROUPS[0], *GROUPS[1])
  ]
  np.testing.assert_allclose(found.scores.ravel(), expected, atol=1e-4)


def test_a_difference_model_compares_every_two(world, tmp_path):
  trained = tiny.reward(
    world, tmp_path, reward=kinds.RewardModelConfig(kind="difference")
  )
  given = online_preferences.RoundJudge(difference_dir=trained["model"])
  found = scored(world, given, tmp_path)
  win_probs = found.win_probs
  np.testing.assert_allclose(win_probs + win_probs.swapaxes(1, 2), 1.0)
  assert win_probs[1, 0, 1] == 0.5, "the same text twice"
  model = pretrained.load(
    trained["model"], "difference", mesh.make_mesh("data:-1")
  )
  margin = kinds.make_pair_scorer("difference", model.functions)
  encode = preferences.make_encoder(model.tokenizer, model.sequence)
  pair, _ = encode([online_preferences._unlabelled(GROUPS[0][2], GROUPS[0][1])])
  one = float(margin(model.params, pair)[0][0])
  assert abs(one) > 0.01
  assert win_probs[0, 2, 1] == pytest.approx(1 / (1 + np.exp(-one)), abs=1e-4)
  np.testing.assert_allclose(
    found.scores[0, 0], (win_probs[0, 0, 1] + win_probs[0, 0, 2]) / 2
  )


def test_a_labeler_is_asked_once_about_every_two(world, tmp_path):
  given = online_preferences.RoundJudge(
    labeler_dir=str(world / "sft" / "model"), judge=JUDGE
  )
  found = scored(world, given, tmp_path)
  path = tmp_path / "judged/store/labels.jsonl"
  chunks = jsonl.parse_rows(path, dict)
  stored = path.read_bytes()
  again = scored(world, given, tmp_path)
  np.testing.assert_array_equal(again.win_probs, found.win_probs)
  assert path.read_bytes() == stored, "no pair is asked for twice"
  # Three pairs of the first context; of the second two texts are the same.
  assert sum(len(chunk["labels"]) for chunk in chunks) == 4
  model = loading.load(world / "sft")

  def judged(number, a, b):
    first, second = (GROUPS[number][i] for i in (a, b))
    pair = records.Pair(
      context=first.context, first=first.text, second=second.text
    )
    (label,), _ = pairwise_judge.judge_pairs([pair], model.backend(), JUDGE)
    return label.p_first

  for number, a, b in ((0, 0, 1), (0, 0, 2), (1, 1, 2)):
    expected = judged(number, a, b)
    assert found.win_probs[number, a, b] == pytest.approx(expected, abs=1e-5)
    assert found.win_probs[number, b, a] == 1 - found.win_probs[number, a, b]
  assert found.win_probs[1, 0, 1] == 0.5
  alike = [group("3", "red hat", "red hat")]
  assert (scored(world, given, tmp_path, alike).win_probs == 0.5).all()


def pairs_of(scores, win_probs=None, **changes):
  settings = dict(choose="max_min", length_penalty=0.0)
  return online_preferences.choose_pairs(
    GROUPS,
    online_preferences.SampleScores(
      scores=np.asarray(scores, float),
      win_probs=None if win_probs is None else np.asarray(win_probs),
      judge="test",
    ),
    generator=np.random.default_rng(0),
    **{**settings, **changes},
  )


def better_and_worse(row):
  texts = row.first, row.second
  return texts if row.p_first > 0.5 else texts[::-1]


def test_a_labeler_that_compares_runs_in_one_process(monkeypatch):
  compares = online_preferences.RoundJudge(labeler_dir="labeler", judge=JUDGE)
  rates = online_preferences.RoundJudge(
    scorer=reward_loading.ScorerConfig(reward_dir="reward")
  )
  online_preferences.check_processes(compares)
  monkeypatch.setattr(online_preferences.jax, "process_count", lambda: 2)
  online_preferences.check_processes(rates)
  with pytest.raises(ValueError, match="'labeler'.*these are 2; start one"):
    online_preferences.check_processes(compares)


def test_best_against_worst_and_ties_are_dropped():
  (row,), numbers = pairs_of([[1, 3, 2], [1, 1, 1]])
  assert better_and_worse(row) == ("ten dogs saw one", "a cat sat")
  assert row.p_first in (0.0, 1.0) and row.context == "a cat and a dog"
  assert row.labeler == "test"
  assert numbers == {"pairs": 1, "ties": 1, "longer_by": 1.0}
  assert pairs_of([[1, 1, 1]] * 2) == (
    [],
    {"pairs": 0, "ties": 2, "longer_by": 0.0},
  )


def test_a_length_penalty_chooses_the_shorter():
  (row, _), _ = pairs_of([[1, 3, 2.5], [1, 2, 3]], length_penalty=0.5)
  # 1 - 1.5, 3 - 2, 2.5 - 1.
  assert better_and_worse(row) == ("the mat", "a cat sat")


def test_a_comparing_judge_gives_its_own_probability():
  win_probs = np.full((2, 3, 3), 0.5)
  win_probs[0, 1, 0], win_probs[0, 0, 1] = 0.8, 0.2
  rows, _ = pairs_of([[0.2, 0.6, 0.5], [0.4, 0.5, 0.6]], win_probs)
  assert max(rows[0].p_first, 1 - rows[0].p_first) == pytest.approx(0.8)
  assert better_and_worse(rows[0]) == ("ten dogs saw one", "a cat sat")


def test_which_text_stands_first_says_nothing():
  firsts = 0
  for number in range(40):
    groups = [group(str(number), f"good {number}", f"bad {number}")]
    (row,), _ = online_preferences.choose_pairs(
      groups,
      online_preferences.SampleScores(scores=np.asarray([[1.0, 0.0]])),
      choose="max_min",
      length_penalty=0.0,
      generator=np.random.default_rng(0),
    )
    assert better_and_worse(row)[0] == f"good {number}"
    firsts += row.first == f"good {number}"
  assert 10 < firsts < 30


@pytest.mark.parametrize(
  "fields, word",
  [
    ({}, "exactly one"),
    (dict(difference_dir="d", labeler_dir="l", judge=JUDGE), "exactly one"),
    (dict(labeler_dir="l"), "judge, or neither"),
  ],
)
def test_judges_that_make_no_sense_are_named(fields, word):
  with pytest.raises(ValueError, match=word):
    online_preferences.RoundJudge(**fields)
