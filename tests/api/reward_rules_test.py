# SPDX-License-Identifier: Apache-2.0
"""Rewards without a model, by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.api import reward_rules
from rlaif_jax.core import records
from rlaif_jax.evaluation import nearness

MASK = (jnp.arange(8) < jnp.array([[[4], [6]], [[7], [8]]])).astype(jnp.float32)


def rows(*responses):
  return [
    records.Example(id=str(i), context="c", response=text)
    for i, text in enumerate(responses)
  ]


def test_length_counts_tokens():
  found = reward_rules.length(None, None, MASK)
  np.testing.assert_array_equal(found, [[4, 6], [7, 8]])


def test_overlong_by_its_formula():
  """arXiv:2503.14476, eq. 13, with L_max 8 and L_cache 4."""
  found = reward_rules.overlong(None, None, MASK, longest=8.0, margin=4.0)
  np.testing.assert_allclose(found, [[0, -0.5], [-0.75, -1]])


def test_repetition_is_a_share_of_ngrams():
  texts = ["a b a b a b", "a b c d", "a", ""]
  found = reward_rules.repetition([""] * 4, texts, order=2)
  # ab ba ab ba ab: two of five are new.
  np.testing.assert_allclose(found, [0.6, 0, 0, 0])


def test_matches_reads_the_whole_text():
  texts = ["<a>x</a>", "<a>x\ny</a>", "x <a>y</a>"]
  found = reward_rules.matches([""] * 3, texts, pattern="<a>.*</a>")
  assert found == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ["chrf", "rouge_l"])
def test_a_reference_is_compared_and_may_be_missing(name):
  rule = reward_rules.RULES[name]
  texts = ["the red cat", "the red cat", "dog"]
  found = rule([""] * 3, texts, rows("the red cat", "", "the red cat"))
  assert found[0] == pytest.approx(1.0) and found[1] is None
  assert found[2] == getattr(nearness, name)("dog", "the red cat")
