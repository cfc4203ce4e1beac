# SPDX-License-Identifier: Apache-2.0
"""Kinds of reward models: conflicts of options, and texts that are too long."""

from __future__ import annotations

import contextlib

import pytest

from rlaif_jax.data import converters
from rlaif_jax.models import architectures
from rlaif_jax.reward import kinds
from tests import testing


@pytest.mark.parametrize(
  "changes, word",
  [
    (dict(kind="pairs"), "difference"),
    (dict(kind="difference", label_smoothing=0.1), "label_smoothing"),
  ],
)
def test_options_that_conflict_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    kinds.RewardModelConfig(**changes)


@pytest.mark.parametrize("kind, responses", [("scalar", 1), ("difference", 2)])
def test_texts_that_the_model_cannot_read_are_an_error(kind, responses):
  tokenizer = testing.CharTokenizer()
  sequence = converters.SequenceConfig(max_context=24, max_response=8)
  length = converters.prompt_length(sequence, tokenizer) + 8 * responses
  for limit, fits in ((length, True), (length - 1, False)):
    context = pytest.raises(ValueError, match=f"up to {length} tokens")
    with contextlib.nullcontext() if fits else context:
      kinds.check_fits(
        kinds.RewardModelConfig(kind=kind),
        sequence,
        tokenizer,
        vocab_size=tokenizer.vocab_size,
        max_length=limit,
      )


def test_only_scalar_decoders_read_packed_pairs():
  model = architectures.scalar(testing.tiny_decoder(136))
  assert kinds.can_pack(kinds.RewardModelConfig(), model)
  difference = kinds.RewardModelConfig(kind="difference")
  assert not kinds.can_pack(difference, model)
