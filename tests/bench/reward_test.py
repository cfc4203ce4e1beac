# SPDX-License-Identifier: Apache-2.0
"""The bench makes updates on the pairs that it names."""

from __future__ import annotations

import pytest

from rlaif_jax.bench import reward
from rlaif_jax.bench import roofline
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
