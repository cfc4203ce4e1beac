# SPDX-License-Identifier: Apache-2.0
"""Sizes that do not fit each other are named."""

from __future__ import annotations

import pytest

from tests.models import decoder_test


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"num_kv_heads": 3}, "num_kv_heads"),
    ({"head_dim": 5}, "head_dim"),
    ({"dtype": "float16"}, "dtype"),
    ({"width": 0}, "width"),
  ],
)
def test_bad_sizes_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    decoder_test.config(**changes)
