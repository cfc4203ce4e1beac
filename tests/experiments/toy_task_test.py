# SPDX-License-Identifier: Apache-2.0
"""The toy world from its definition: values, penalty, writers."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.experiments import toy_task

CONFIG = dict(topics=2, words=5, max_words=6, shortest=2, longest=4)


def test_gold_is_the_sum_of_values_less_the_penalty():
  config = toy_task.ToyWorldConfig(**CONFIG, bonus=0.5, limit=3, penalty=0.25)
  world = toy_task.make_world(config, 0)
  prompts = world.prompts(np.array([1]))  # Topic 1; words begin at token 4.
  response = np.array([[4, 6, 6, 8, 5, toy_task.END, 0]])
  mask = np.array([[1, 1, 1, 1, 1, 1, 0]], np.float32)
  value = world.values[1]
  expected = value[0] + 2 * value[2] + value[4] + value[1] + 5 * 0.5
  expected -= 0.25 * (5 - 3) ** 2
  gold = world.gold(prompts, response, mask)
  np.testing.assert_allclose(gold, [expected], rtol=1e-6)


def test_what_stands_behind_the_end_is_worth_nothing():
  world = toy_task.make_world(toy_task.ToyWorldConfig(**CONFIG), 0)
  prompts = world.prompts(np.zeros(2, int))
  response = np.array([[5, 1, 0, 0, 0, 0, 0], [5, 1, 7, 7, 7, 7, 7]])
  mask = np.array([[1, 1, 0, 0, 0, 0, 0]] * 2, np.float32)
  gold = world.gold(prompts, response, mask)
  np.testing.assert_allclose(gold, world.values[0, 1])


def test_a_token_that_is_no_word_is_the_worst_word():
  world = toy_task.make_world(toy_task.ToyWorldConfig(**CONFIG), 0)
  prompts = world.prompts(np.zeros(1, int))
  response = np.array([[3, 1, 0, 0, 0, 0, 0]])  # Token 3 is a topic.
  mask = np.array([[1, 1, 0, 0, 0, 0, 0]], np.float32)
  gold = world.gold(prompts, response, mask)
  np.testing.assert_allclose(gold, world.values.min())


def test_what_writers_write_is_worth_zero_and_rare_words_less():
  config = toy_task.ToyWorldConfig(topics=3, words=50, decline=3.0)
  world = toy_task.make_world(config, 1)
  prompts = world.prompts(np.arange(30_000))
  tokens, mask = world.write(prompts, np.random.default_rng(0))
  gold = world.gold(prompts, tokens, mask)
  assert abs(gold.mean()) < 4 * gold.std() / np.sqrt(len(gold))
  lengths = mask.sum(axis=1) - 1
  assert set(lengths) == set(range(config.shortest, config.longest + 1))
  order = np.argsort(-world.usage, axis=1)
  ranked = np.take_along_axis(world.values, order, axis=1)
  slope = np.polyfit(np.arange(50), ranked.mean(axis=0), 1)[0] * 49
  assert abs(slope + 3.0) < 4 * np.sqrt(12 / 50 / 3)
  # Every word is written as often as `usage` says.
  words = tokens[prompts[:, 0] == 2][:, :3] - 5
  share = np.bincount(words.ravel(), minlength=50) / words.size
  np.testing.assert_allclose(share, world.usage[0], atol=0.01)


def test_an_even_world_uses_all_words_alike_and_values_them_as_before():
  world = toy_task.make_world(toy_task.ToyWorldConfig(**CONFIG), 2)
  even = world.uniform()
  prompts = world.prompts(np.arange(20_000))
  tokens, _ = even.write(prompts, np.random.default_rng(0))
  share = np.bincount(tokens[:, :2].ravel() - 4, minlength=5) / 40_000
  np.testing.assert_allclose(share, 0.2, atol=0.01)
  np.testing.assert_array_equal(even.values, world.values)


def test_worlds_are_functions_of_the_seed():
  config = toy_task.ToyWorldConfig(**CONFIG)
  a, b, c = (toy_task.make_world(config, seed) for seed in (3, 3, 4))
  np.testing.assert_array_equal(a.values, b.values)
  assert np.abs(a.values - c.values).max() > 0.1


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"longest": 9}, "2, 9 and 6"),
    ({"words": 1}, "words is 1"),
    ({"limit": 3}, "penalty"),
  ],
)
def test_bad_worlds_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    toy_task.ToyWorldConfig(**{**CONFIG, **changes})


def test_bias_changes_values_and_the_writers_mean_stays_zero():
  world = toy_task.make_world(toy_task.ToyWorldConfig(topics=3, words=400), 1)
  other = world.biased(0.5, np.random.default_rng(0))
  error = other.values - world.values
  assert error.std() == pytest.approx(0.5 * world.values.std(), rel=0.1)
  np.testing.assert_allclose((other.usage * other.values).sum(1), 0, atol=1e-9)
  same = world.biased(0.0, np.random.default_rng(0))
  np.testing.assert_allclose(same.values, world.values, atol=1e-12)


def test_tilted_writers_are_the_optimum_of_value_minus_kl():
  """No other use of words has more value - KL / strength."""
  world = toy_task.make_world(toy_task.ToyWorldConfig(**CONFIG), 0)
  tilted = world.tilted(2.0)
  np.testing.assert_allclose(tilted.usage.sum(axis=1), 1)

  def objective(usage):
    kl = (usage * np.log(usage / world.usage)).sum(axis=1)
    return (usage * world.values).sum(axis=1) - kl / 2.0

  best = objective(tilted.usage)
  # Known in closed form: log of the mean of exp(2 value), halved.
  mean = (world.usage * np.exp(2.0 * world.values)).sum(axis=1)
  np.testing.assert_allclose(best, np.log(mean) / 2.0)
  generator = np.random.default_rng(0)
  for _ in range(50):
    noise = np.exp(0.1 * generator.normal(size=tilted.usage.shape))
    other = tilted.usage * noise
    other /= other.sum(axis=1, keepdims=True)
    assert (objective(other) < best).all()
