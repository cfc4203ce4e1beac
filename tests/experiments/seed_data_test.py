# SPDX-License-Identifier: Apache-2.0
"""A seed's world: SFT learns the writers, labels err as often as they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rlaif_jax.core import rng
from rlaif_jax.experiments import toy_task
from rlaif_jax.experiments import seed_data
from tests import tiny_toy


def test_the_first_policy_writes_as_the_writers_do():
  data = tiny_toy.data()
  prompts, samples = data.reference
  words = samples.response[:, :3] - 4
  assert (samples.response[:, 3] == toy_task.END).mean() > 0.9
  usage = data.world.usage
  for topic in range(2):
    share = np.bincount(
      words[prompts.prompt[:, 0] == 2 + topic].ravel().clip(0, 5), minlength=6
    )
    np.testing.assert_allclose(share / share.sum(), usage[topic], atol=0.15)


def test_gold_is_in_units_of_the_first_policy():
  data = tiny_toy.data()
  gold = data.gold(*data.reference)
  np.testing.assert_allclose([gold.mean(), gold.std()], [0, 1], atol=1e-6)


def test_wins_are_over_samples_of_the_same_prompt():
  data = tiny_toy.data()
  prompts, samples = data.reference
  gold = data.gold(prompts, samples)
  wins = data.wins(prompts, gold)
  np.testing.assert_allclose(wins.mean(), 0.5, atol=1e-6)
  same = prompts.prompt[:, 0] == prompts.prompt[3, 0]
  by_hand = np.mean(gold[same] < gold[3]) + np.mean(gold[same] == gold[3]) / 2
  np.testing.assert_allclose(wins[3], by_hand)


def test_pairs_are_of_one_prompt_and_two_samples():
  train = tiny_toy.data().train
  np.testing.assert_array_equal(
    train.first.tokens[:, 0], train.second.tokens[:, 0]
  )
  assert (train.first.tokens != train.second.tokens).any()
  gaps = tiny_toy.data().train_margins
  decided = gaps != 0
  wrong = (gaps > 0) != (train.label > 0.5)
  assert 0 < wrong[decided].mean() < 0.25  # flip is 0.1.
  assert set(tiny_toy.data().test.label) == {0.0, 1.0}


def test_noise_is_of_the_kind_that_is_asked_for():
  gaps = np.repeat([0.0, 0.5, -2.0], 20_000)
  flip = seed_data.noisy_labels(tiny_toy.CONFIG, gaps, 0)
  share = flip.reshape(3, -1).mean(axis=1)
  np.testing.assert_allclose(share[1:], [0.9, 0.1], atol=0.01)
  soft = dataclasses.replace(tiny_toy.CONFIG, flip=0.0, temperature=0.5)
  share = seed_data.noisy_labels(soft, gaps, 0).reshape(3, -1).mean(axis=1)
  expected = [0.5, 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(4.0))]
  np.testing.assert_allclose(share, expected, atol=0.01)


def test_blocks_do_not_change_samples():
  programs, data = tiny_toy.programs(), tiny_toy.data()
  prompts = seed_data.prompt_rows(data.world, np.arange(130))
  key = rng.key(0, "x")
  samples = programs.draw(data.policy, prompts, key)  # Blocks of 128.
  part = seed_data.prompt_rows(data.world, np.arange(126, 130))
  again = programs.draw(data.policy, part, key)
  np.testing.assert_array_equal(samples.response[126:], again.response)
  own = programs.log_probs(data.policy, prompts, samples) * samples.mask
  np.testing.assert_allclose(own, samples.log_probs, atol=1e-4)


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"flip": 0.7}, "flip"),
    ({"temperature": 1.0}, "temperature is 1.0 and flip"),
    ({"proxy": dataclasses.replace(tiny_toy.MODEL, vocab_size=9)}, "proxy"),
  ],
)
def test_bad_rigs_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    dataclasses.replace(tiny_toy.CONFIG, **changes)
