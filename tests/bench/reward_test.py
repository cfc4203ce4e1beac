# SPDX-License-Identifier: Apache-2.0
"""The bench makes updates on the pairs that it names."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rlaif_jax.bench import pairs
from rlaif_jax.bench import reward
from rlaif_jax.bench import roofline
from rlaif_jax.models import architectures
from rlaif_jax.reward import model as reward_model
from tests import testing


@pytest.mark.parametrize("ragged", [False, True])
def test_it_counts_pairs(monkeypatch, ragged):
  machine = roofline.Machine(flops=1e9, bandwidth=1e9)
  monkeypatch.setattr(roofline, "measure", lambda: machine)
  line = reward.run(
    4,
    12,
    4,
    ragged=ragged,
    repetitions=1,
    model_config=testing.tiny_decoder(40),
  )
  assert line["pairs_per_s"] == pytest.approx(4 / line["seconds"], rel=0.01)
  assert (line["pairs"], line["prompt"], line["response"]) == (4, 12, 4)


def test_separate_rows_have_the_same_rewards():
  """Both sides of the benchmark compute the same losses."""
  config = testing.tiny_decoder(40)
  model = architectures.scalar(config)
  # The head begins with zeros.
  params = jax.tree.map(
    lambda x: x + 0.1 * np.random.default_rng(x.size).normal(size=x.shape),
    testing.build(model),
  )
  data = pairs.random_pairs(4, 12, 4, ragged=True, vocab_size=40)
  shared = reward_model.pair_rewards(model, params, data)
  separate = reward_model.pair_rewards(
    reward.repeat_prompts(model), params, data
  )
  np.testing.assert_allclose(shared, separate, atol=1e-5)
  assert abs(np.asarray(shared[0]) - np.asarray(shared[1])).max() > 1e-3


def test_separate_pairs_are_not_packed(monkeypatch):
  seen = []

  def stop(init, loss, batch):
    seen.append(batch)
    raise StopIteration

  monkeypatch.setattr(reward.pairs_lib, "make_update", stop)
  for settings in ({}, {"padded": True}, {"separate": True}):
    with pytest.raises(StopIteration):
      reward.run(
        4,
        12,
        4,
        ragged=True,
        model_config=testing.tiny_decoder(40),
        **settings,
      )
  assert [batch.is_packed for batch in seen] == [True, False, False]
