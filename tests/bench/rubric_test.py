# SPDX-License-Identifier: Apache-2.0
"""Questions together and one by one have the same answers."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.bench import roofline
from rlaif_jax.bench import rubric
from tests import testing

CONFIG = testing.tiny_decoder(40)


def test_together_and_one_by_one_agree(monkeypatch):
  machine = roofline.Machine(flops=1e9, bandwidth=1e9)
  monkeypatch.setattr(roofline, "measure", lambda: machine)
  lines = [
    rubric.run(4, 3, 8, 30, 5, plain=plain, repetitions=1, model_config=CONFIG)
    for plain in (False, True)
  ]
  a, b = (line["log_probs"] for line in lines)
  assert a.shape == (4, 3, 2) and np.std(a) > 1e-4
  np.testing.assert_allclose(a, b, atol=1e-4)
  assert lines[0]["responses_per_s"] == pytest.approx(
    4 / lines[0]["seconds"], rel=0.01
  )


def test_a_context_is_counted_once():
  def flops(criteria, question):
    return rubric.phases(CONFIG, 3, criteria, 8, 30, question)[0].flops

  # Each further question costs as much as the second one.
  assert flops(4, 5) - flops(3, 5) == flops(2, 5) - flops(1, 5)
  assert flops(2, 5) < 2 * flops(1, 5)
