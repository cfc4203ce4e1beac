# SPDX-License-Identifier: Apache-2.0
"""Token counts without a tokenizer."""

from __future__ import annotations

import pytest

from rlaif_jax.text import estimates
from rlaif_jax.text import prompts


@pytest.mark.parametrize("length, tokens", [(0, 0), (1, 1), (3, 1), (4, 2)])
def test_three_characters_are_a_token(length, tokens):
  tokenizer = estimates.EstimatedTokenizer()
  assert len(tokenizer.encode("x" * length)) == tokens
  assert len(tokenizer.encode_plain("x" * length)) == tokens


def test_contexts_are_cut_by_the_estimate():
  template = prompts.load("summary_base")
  fitted = prompts.fit(
    template,
    "word " * 1000,
    ("a", "b"),
    tokenizer=estimates.EstimatedTokenizer(),
    max_tokens=400,
  )
  assert fitted.tokens <= 400 and fitted.cut_tokens > 0
  assert 0 < len(fitted.context) < 1200
