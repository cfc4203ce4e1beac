# SPDX-License-Identifier: Apache-2.0
"""LoraConfig refuses what is no adapter; its errors name the field."""

from __future__ import annotations

import pytest

from rlaif_jax.core import lora_config


@pytest.mark.parametrize(
  "field, value",
  [
    ("rank", 0),
    ("alpha", 0.0),
    ("targets", ()),
    ("targets", ".*"),
    ("targets", ("(",)),
    ("dtype", "int8"),
  ],
)
def test_errors_name_the_field(field, value):
  with pytest.raises(ValueError, match=f"LoraConfig.{field}"):
    lora_config.LoraConfig(**{field: value})


def test_lists_of_json_become_tuples():
  config = lora_config.LoraConfig(targets=["a", "b"], rank=4, alpha=2.0)
  assert config.targets == ("a", "b") and config.scale == 0.5
