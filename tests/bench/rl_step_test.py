# SPDX-License-Identifier: Apache-2.0
"""The bench makes whole RL steps, and counts each prompt once."""

from __future__ import annotations

import pytest

from rlaif_jax.bench import rl_step
from rlaif_jax.bench import roofline
from rlaif_jax.rl import algorithms
from tests import testing

CONFIG = testing.tiny_decoder(40)


@pytest.mark.parametrize("algorithm", ["rloo", "reinforce"])
def test_it_counts_samples(monkeypatch, algorithm):
  machine = roofline.Machine(flops=1e9, bandwidth=1e9)
  monkeypatch.setattr(roofline, "measure", lambda: machine)
  line = rl_step.run(algorithm, 4, 6, 3, repetitions=1, model_config=CONFIG)
  assert line["samples_per_s"] == pytest.approx(4 / line["seconds"], rel=0.01)
  assert ("value update" in line["phases"]) == (algorithm == "reinforce")


def test_two_samples_read_their_prompt_once():
  def flops(algorithm, name):
    rl = algorithms.RLConfig(
      algorithm=algorithm,
      samples_per_prompt=algorithms.ALGORITHMS[algorithm].min_samples,
    )
    found = rl_step.phases(CONFIG, 8, 60, 4, rl)
    return {phase.name: phase.flops for phase in found}[name]

  for name in ("prompts", "reference", "update"):
    assert flops("rloo", name) < 0.65 * flops("reinforce", name)
