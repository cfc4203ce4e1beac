# SPDX-License-Identifier: Apache-2.0
"""Options of SFT that conflict are named."""

from __future__ import annotations

import pytest

from rlaif_jax.core import lora_config
from rlaif_jax.sft import options
from tests import tiny_world as tiny


def check(**changes):
  settings = dict(
    config=tiny.MODEL,
    sequence=tiny.SEQUENCE,
    context_weight=0.5,
    init_from="model",
    lora=lora_config.LoraConfig(),
  )
  settings |= changes
  config, sequence = settings.pop("config"), settings.pop("sequence")
  options.check(config, sequence, **settings)


def test_a_decoder_with_adapters_and_context_weight_is_fine():
  check()


@pytest.mark.parametrize(
  "changes, word",
  [
    (dict(init_from=""), "set init_from"),
    (dict(config=None), "set model"),
    (dict(sequence=None), "SFTData.sequence"),
    (dict(config=tiny.T5), "SFTData.context_weight is 0.5"),
  ],
)
def test_conflicts_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    check(**changes)
