# SPDX-License-Identifier: Apache-2.0
"""Both ways of judging give the same answers."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.bench import judge
from rlaif_jax.bench import roofline
from tests import testing

CONFIG = testing.tiny_decoder(40)


def test_shared_and_plain_agree(monkeypatch):
  machine = roofline.Machine(flops=1e9, bandwidth=1e9)
  monkeypatch.setattr(roofline, "measure", lambda: machine)
  lines = [
    judge.run(
      4,
      40,
      30,
      5,
      plain=plain,
      repetitions=1,
      batch_size=8,
      model_config=CONFIG,
    )
    for plain in (False, True)
  ]
  a, b = (line["log_probs"] for line in lines)
  assert a.shape == (8, 2) and np.std(a) > 1e-4
  np.testing.assert_allclose(a, b, atol=1e-4)
  assert lines[0]["pairs_per_s"] == pytest.approx(
    4 / lines[0]["seconds"], rel=0.01
  )


def test_the_preamble_is_attended_but_not_computed():
  def flops(pairs, shared):
    return judge.phases(CONFIG, pairs, shared, 7, 2)[0].flops

  # 7 tokens of a context and 2 x 4 of candidates see 10 more each.
  heads = CONFIG.num_heads * CONFIG.head_dim
  more = 4 * CONFIG.num_layers * heads * 15 * 10
  assert flops(3, 11) - flops(3, 1) == 3 * more
