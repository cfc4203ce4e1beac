# SPDX-License-Identifier: Apache-2.0
"""The bench makes whole RL steps with each judge, and counts its work."""

from __future__ import annotations

import dataclasses

import pytest

from rlaif_jax.bench import rl_judge
from rlaif_jax.bench import roofline
from tests import testing

CONFIG = dataclasses.replace(testing.tiny_decoder(40), max_length=128)


@pytest.mark.parametrize("judge", ["pointwise", "ring"])
def test_it_counts_samples(monkeypatch, judge):
  machine = roofline.Machine(flops=1e9, bandwidth=1e9)
  monkeypatch.setattr(roofline, "measure", lambda: machine)
  line = rl_judge.run(judge, 8, 4, 6, 3, repetitions=1, model_config=CONFIG)
  assert line["samples_per_s"] == pytest.approx(8 / line["seconds"], rel=0.01)
  assert "judge" in line["phases"]


def test_a_ring_of_four_asks_eight_times():
  def flops(judge):
    return rl_judge.judging(judge, CONFIG, (2, 4, 60, 8)).flops

  assert flops("pointwise") < flops("ring") < flops("all")


def test_an_unknown_judge_is_named():
  with pytest.raises(ValueError, match="rings"):
    rl_judge.run("rings")
