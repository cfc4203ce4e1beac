# SPDX-License-Identifier: Apache-2.0
"""Models fulfil their contracts as plain functions."""

from __future__ import annotations

import dataclasses
import inspect

from rlaif_jax.core import protocols
from rlaif_jax.models import decoder
from rlaif_jax.models import heads
from rlaif_jax.models import t5
from tests import testing

T5 = t5.T5Config(
  vocab_size=7,
  width=8,
  num_layers=1,
  num_decoder_layers=1,
  num_heads=1,
  head_dim=4,
  mlp_dim=8,
  max_length=8,
)


def test_every_field_of_a_model_is_there_and_callable():
  config = testing.tiny_decoder(7)
  for made, kind in (
    (decoder.functions(config), protocols.LanguageModel),
    (heads.functions(config), protocols.ScalarModel),
  ):
    assert isinstance(made, kind)
    for name, field in kind.__dataclass_fields__.items():
      value = getattr(made, name)
      assert callable(value) or isinstance(
        value, int | protocols.CacheFunctions
      ), field


def test_a_language_model_has_at_most_eight_functions():
  fields = dataclasses.fields(protocols.LanguageModel)
  functions = [f.name for f in fields if "Callable" in f.type]
  assert 6 <= len(functions) <= 8, functions


def test_only_causal_models_read_packed_rows():
  assert not t5.functions(T5).is_causal
  assert not t5.scalar_functions(T5).is_causal
  config = testing.tiny_decoder(7)
  assert decoder.functions(config).is_causal
  assert heads.functions(config).is_causal


def test_the_scripted_backend_and_the_flax_backend_ask_alike():
  from rlaif_jax.labeling import backends

  for name in ("score_options", "complete"):
    contract = inspect.signature(getattr(protocols.Backend, name))
    for cls in (backends.FlaxBackend, testing.ScriptedBackend):
      own = inspect.signature(getattr(cls, name))
      assert list(own.parameters) == list(contract.parameters)
