# SPDX-License-Identifier: Apache-2.0
"""Each field of model.json is checked."""

from __future__ import annotations

import dataclasses

import pytest

from rlaif_jax.data import converters
from rlaif_jax.model_io import descriptions
from tests import testing

SEQUENCE = converters.SequenceConfig(max_context=4, max_response=2)
CONFIG = testing.tiny_decoder(7)
GOOD = {
  "name": "n",
  "kind": "language",
  "architecture": "decoder",
  "vocabulary": "v",
  "chat": ["", ""],
  "config": dataclasses.asdict(CONFIG),
  "sequence": dataclasses.asdict(SEQUENCE),
}


def test_configs_come_back():
  assert descriptions.configs(GOOD, "language") == (CONFIG, SEQUENCE, None)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"name": None}, "name is missing"),
    ({"kind": "scalar"}, "holds a scalar model"),
    ({"architecture": "x"}, "architecture is 'x'; use one of"),
    ({"chat": ["a"]}, "chat is"),
    ({"chat": ["a", 1]}, r"chat\[1\] is 1; it must be a text"),
    ({"config": []}, "expected an object"),
    ({"config": {**GOOD["config"], "width": 1.5}}, "width is 1.5; it must be"),
    ({"config": {**GOOD["config"], "num_layers": 0}}, "num_layers is 0"),
    ({"sequence": {"max_context": 1}}, "missing keys \\['max_response'\\]"),
  ],
)
def test_a_wrong_field_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    descriptions.configs({**GOOD, **change}, "language")
