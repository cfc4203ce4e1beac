# SPDX-License-Identifier: Apache-2.0
"""Students move to their teacher, and then to what the critic likes."""

from __future__ import annotations

import dataclasses
import typing

import numpy as np
import pytest

from rlaif_jax.experiments import seed_data
from rlaif_jax.experiments import toy_teachers
from tests import tiny_toy

CONFIG = tiny_toy.TEACHERS
WEAK = toy_teachers.ToyTeacherArm(name="weak", teacher="weak")
STRONG = dataclasses.replace(WEAK, teacher="strong")


@pytest.fixture(scope="module")
def student():
  return toy_teachers.Student(tiny_toy.policies(), CONFIG)


def test_the_critic_writes_what_it_likes_and_scores_in_its_own_units():
  data = tiny_toy.data()
  critic = toy_teachers.make_critic(data, CONFIG)
  prompts, samples = data.reference
  scores = critic.reward(
    prompts, samples.response[:, None], samples.mask[:, None]
  )[:, 0]
  np.testing.assert_allclose([scores.mean(), scores.std()], [0, 1], atol=1e-5)
  gold = data.gold(prompts, samples)
  assert 0.5 < np.corrcoef(gold, scores)[0, 1] < 1 - 1e-6
  liked = []
  for teacher in typing.get_args(toy_teachers.Teacher):
    texts = toy_teachers.teacher_texts(data, critic, teacher, 256)
    rows = seed_data.prompt_rows(data.world, np.arange(256))
    columns = texts.weights.shape[1]
    response = texts.tokens[:, -columns:]
    mask = texts.weights[:, None]
    liked.append(critic.reward(rows, response[:, None], mask).mean())
  assert abs(liked[0]) < 0.3 and liked[1] > 0.8


def test_arms_take_as_many_updates_and_end_where_they_should(student):
  data = tiny_toy.data()
  rows = {
    name: student.stages(data, arm)["policy"]
    for name, arm in {
      "weak": WEAK,
      "strong": STRONG,
      "feedback": dataclasses.replace(WEAK, share=0.5, feedback=True),
    }.items()
  }
  assert [r["step"] for r in rows["weak"]] == [0, 20, 40]
  assert [r["step"] for r in rows["feedback"]] == [0, 10, 20, 30, 40]
  start = rows["weak"][0]
  assert start["kl"] == pytest.approx(0, abs=1e-5)
  # The student has read texts of all words alike.
  prompts = seed_data.prompt_rows(data.world, np.arange(4096))
  even = data.world.uniform().write(prompts.prompt, np.random.default_rng(0))
  expected = data.score(prompts.prompt, *(x[:, None] for x in even)).mean()
  assert expected < -0.3
  assert start["gold"] == pytest.approx(expected, abs=0.3)
  for name in rows:
    assert rows[name][0] == start
    assert rows[name][-1]["proxy"] > start["proxy"]
  ends = {name: rows[name][-1]["gold"] for name in rows}
  assert ends["strong"] > ends["weak"] + 0.3
  # Feedback continues after imitation, to more of what the critic likes.
  imitated, last = rows["feedback"][2], rows["feedback"][-1]
  assert last["proxy"] > imitated["proxy"] + 0.3


def test_feedback_is_about_other_prompts_and_ties_weigh_nothing(student):
  data = tiny_toy.data()
  critic = toy_teachers.make_critic(data, CONFIG)
  pairs = student._judged_pairs(data, critic, data.policy, 65)
  assert len(pairs.label) == 128 - 65
  expected = data.world.prompts(np.arange(65, 128))[:, 0]
  np.testing.assert_array_equal(pairs.first.tokens[:, 0], expected)
  same = (pairs.first.tokens == pairs.second.tokens).all(axis=1)
  assert same.any() and (pairs.weight[same] == 0).all()
  assert pairs.weight.mean() > 0.5


def test_what_makes_no_sense_is_named():
  with pytest.raises(ValueError, match="teacher is 'wise'"):
    dataclasses.replace(WEAK, teacher="wise")
  with pytest.raises(ValueError, match="leave prompts for feedback"):
    dataclasses.replace(WEAK, feedback=True)
  with pytest.raises(ValueError, match="updates is 7"):
    dataclasses.replace(CONFIG, updates=7)
