# SPDX-License-Identifier: Apache-2.0
"""Sizes that T5 refuses."""

from __future__ import annotations

import pytest

from rlaif_jax.models import t5_config

SIZES = dict(
  vocab_size=13,
  width=16,
  num_layers=2,
  num_decoder_layers=1,
  num_heads=2,
  head_dim=6,
  mlp_dim=24,
  max_length=64,
)


@pytest.mark.parametrize(
  "change, word",
  [
    ({"width": 0}, "width"),
    ({"relpos_buckets": 6}, "relpos_buckets"),
    ({"relpos_max_distance": 16}, "relpos_max_distance"),
    ({"relpos_max_distance": 1 << 31}, "relpos_max_distance .* at most"),
    ({"dtype": "float16"}, "dtype"),
    ({"scale_logits": True}, "scale_logits"),
    ({"activation": "erf"}, "activation is .erf.; use one of"),
  ],
)
def test_bad_sizes_are_named(change, word):
  with pytest.raises(ValueError, match=word):
    t5_config.T5Config(**SIZES | change)
