# SPDX-License-Identifier: Apache-2.0
"""The bench does the work that it says."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.bench import rollout
from rlaif_jax.bench import roofline
from tests import testing


def test_every_row_gets_all_its_tokens(monkeypatch, capsys):
  machine = roofline.Machine(flops=1e9, bandwidth=1e9)
  monkeypatch.setattr(roofline, "measure", lambda: machine)
  line = rollout.run(
    3, 5, 4, repetitions=1, model_config=testing.tiny_decoder(40)
  )
  assert (line["rows"], line["prompt"], line["new"]) == (3, 5, 4)
  assert line["tokens_per_s"] == pytest.approx(12 / line["seconds"], rel=0.01)
  assert "rollout" in capsys.readouterr().out


def test_tokens_after_the_first_are_read_one_by_one():
  config = testing.tiny_decoder(40)
  prompts, tokens = rollout.phases(config, 3, 5, 4)
  assert prompts.times == 1 and tokens.times == 3


def test_slots_and_batches_draw_the_same_ragged_responses():
  line = rollout.run_ragged(
    2,
    5,
    6,
    count=6,
    mean=3,
    repetitions=1,
    model_config=testing.tiny_decoder(40),
  )
  lengths = rollout.ragged_lengths(6, 3, 6)
  assert line["same_responses"] == 1.0
  assert line["mean_length"] == lengths.mean()


def test_ragged_lengths_are_geometric():
  lengths = rollout.ragged_lengths(20_000, 32, 10_000)
  assert abs(lengths.mean() - 32) < 1 and lengths.min() == 1
  assert abs(np.median(lengths) - 22) <= 1
  assert rollout.ragged_lengths(200, 32, 40).max() == 40
