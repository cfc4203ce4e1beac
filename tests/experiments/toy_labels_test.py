# SPDX-License-Identifier: Apache-2.0
"""Labelers err as configured, and their labels reach the proxy."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.experiments import toy_labels
from rlaif_jax.experiments import seed_data
from rlaif_jax.reward import ensemble
from tests import tiny_toy

SINGLE = ensemble.EnsembleConfig()
RIGHT = toy_labels.ToyLabelerConfig()


def label(**config):
  return toy_labels.label(
    tiny_toy.trainer(),
    tiny_toy.data(),
    toy_labels.ToyLabelerConfig(**config),
  )


def train(*labelers, order="mixed", kind=SINGLE):
  config = toy_labels.ToyLabelsConfig(labelers=labelers, order=order)
  return toy_labels.train(tiny_toy.trainer(), tiny_toy.data(), kind, config)


def test_people_err_at_random_and_an_ai_by_its_taste():
  data = tiny_toy.data()
  truth = (data.train_margins > 0).astype(np.float32)
  np.testing.assert_array_equal(label(), truth)
  # A labeler with the flips of the training labels makes the same errors.
  np.testing.assert_array_equal(label(flip=0.1), data.train.label)
  shares = [np.mean(label(bias=t) == truth) for t in (0.3, 1.0, 30.0)]
  assert 1 > shares[0] > shares[1] > shares[2] > 0.3


def test_a_model_of_ones_own_gives_soft_labels_from_other_pairs(monkeypatch):
  names, sample = [], seed_data.sample_pairs

  def sampled(programs, data, pairs, name):
    names.append((pairs, name))
    return sample(programs, data, pairs, name)

  monkeypatch.setattr(seed_data, "sample_pairs", sampled)
  soft = label(pairs=256)
  assert names == [(256, "labeler")]
  assert ((soft > 0) & (soft < 1)).all() and soft.std() > 0.05
  truth = tiny_toy.data().train_margins > 0
  assert np.mean((soft > 0.5) == truth) > 0.7
  few, _ = sample(tiny_toy.programs(), tiny_toy.data(), 64, "labeler")
  own = tiny_toy.data().train.first.tokens[:64]
  assert not np.array_equal(few.first.tokens, own)


def test_halves_are_of_two_labelers():
  """The half that is labelled wrongly throughout halves the accuracy."""
  data = tiny_toy.data()
  wrong = toy_labels.ToyLabelerConfig(bias=1e9)
  half = len(data.train.label) // 2
  right = np.ones(len(data.train.label))
  expected = 1.0 * ((label(bias=1e9) > 0.5) == (data.train_margins > 0))
  expected[:half] = 1.0
  for labels in (right, expected):  # Pairs of equal gold count half.
    labels[data.train_margins == 0] = 0.5
  numbers = train(RIGHT, wrong).numbers
  assert numbers["label_accuracy"] == pytest.approx(expected.mean())
  assert train(RIGHT).numbers["label_accuracy"] == pytest.approx(right.mean())


def test_labels_in_turn_leave_the_last_labelers_mark():
  noise = toy_labels.ToyLabelerConfig(flip=0.5)
  last, first = (
    train(*pair, order="sequential").numbers["train_accuracy"]
    for pair in ((RIGHT, noise), (noise, RIGHT))
  )
  mixed = train(noise, RIGHT).numbers["train_accuracy"]
  assert len({last, first, mixed}) == 3
  assert train(noise, RIGHT, order="sequential").numbers["accuracy"] > 0.6


def test_what_makes_no_sense_is_named():
  with pytest.raises(ValueError, match="flip is 0.7"):
    toy_labels.ToyLabelerConfig(flip=0.7)
  with pytest.raises(ValueError, match="shuffled"):
    toy_labels.ToyLabelsConfig(labelers=(RIGHT,), order="shuffled")
  with pytest.raises(ValueError, match="labelers is empty"):
    toy_labels.ToyLabelsConfig(labelers=())
  lora = ensemble.EnsembleConfig(kind="lora", members=2, lora=tiny_toy.LORA)
  with pytest.raises(ValueError, match="two phases"):
    train(RIGHT, RIGHT, order="sequential", kind=lora)
