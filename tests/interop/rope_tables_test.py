# SPDX-License-Identifier: Apache-2.0
"""Rotary scalings survive config.json; YaRN's frequencies by its paper."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlaif_jax.interop import rope_tables
from rlaif_jax.models import architecture_options as options_lib

YARN = {
  "rope_type": "yarn",
  "factor": 4.0,
  "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
  "values",
  [
    YARN,
    {**YARN, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.5},
    {"type": "linear", "factor": 2.0},
    {},
  ],
)
def test_there_and_back(values):
  scaling = rope_tables.from_hf(values, 256)
  assert rope_tables.from_hf(rope_tables.to_hf(scaling) or {}, 256) == scaling


def test_yarn_by_definition():
  """Kept, divided and blended frequencies, channel by channel."""
  scaling = rope_tables.from_hf(YARN, 256)
  assert scaling.attention_factor == pytest.approx(0.1 * math.log(4.0) + 1)
  found = np.asarray(options_lib.rope_frequencies(16, 1e4, scaling))
  edges = [
    16 * math.log(64 / (turns * 2 * math.pi)) / (2 * math.log(1e4))
    for turns in (32, 1)
  ]
  low, high = max(math.floor(edges[0]), 0), math.ceil(edges[1])
  for i, value in enumerate(found):
    plain = 1e4 ** (-i / 8)
    share = min(max((i - low) / (high - low), 0), 1)
    assert value == pytest.approx(
      plain * (1 - share) + plain / 4 * share, rel=1e-5
    )


@pytest.mark.parametrize(
  "change, message",
  [
    ({"mscale": 0.7}, "mscale is 0.7"),
    ({"truncate": False}, "truncate is False"),
    ({"rope_type": "longrope"}, "longrope"),
    ({"factor": None}, "factor is missing"),
  ],
)
def test_what_we_do_not_compute_is_an_error(change, message):
  with pytest.raises(ValueError, match=message):
    rope_tables.from_hf({**YARN, **change}, 256)
