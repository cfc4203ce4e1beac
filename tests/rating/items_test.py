# SPDX-License-Identifier: Apache-2.0
"""Items of responses and of pairs, and those that cannot be ranked."""

from __future__ import annotations

import pytest

from rlaif_jax.core import records
from rlaif_jax.rating import items
from tests import testing

TEXTS = {
  "a": {"1": "x", "2": "same", "3": "z"},
  "b": {"1": "y", "2": "same", "4": "w"},
}


def make(texts, **settings):
  return items.from_responses(testing.sampled(texts), **settings)


def test_common_contexts_whose_responses_differ():
  found, skipped = make(TEXTS, mode="rank")
  assert [(item.id, item.responses) for item in found] == [("1", ("x", "y"))]
  assert found[0].names == ("a", "b") and found[0].context == "context 1"
  assert skipped == 1
  found, skipped = make(TEXTS, mode="harmful")
  assert [item.id for item in found] == ["1", "2"] and skipped == 0
  few, _ = make(TEXTS, mode="harmful", limit=1)
  assert few == found[:1]


@pytest.mark.parametrize("mode", ["rank", "harmful"])
def test_policies_without_a_common_context(mode):
  texts = {"a": {"1": "x"}, "b": {"2": "y"}}
  with pytest.raises(ValueError, match="no context in common"):
    make(texts, mode=mode)
  same = {"a": {"1": "x"}, "b": {"1": "x"}}
  if mode == "rank":
    with pytest.raises(ValueError, match="no context in common"):
      make(same, mode=mode)
    with pytest.raises(ValueError, match="set two or more"):
      make({"a": {"1": "x"}}, mode=mode)
  else:
    assert make({"a": {"1": "x"}}, mode=mode)[1] == 0


def test_pairs_that_differ():
  pairs = [
    records.Pair(id=f"p{i}", context="c", first="a", second=second)
    for i, second in enumerate(("b", "a", "c"))
  ]
  found, num_equal = items.from_pairs(pairs)
  assert [item.id for item in found] == ["p0", "p2"] and num_equal == 1
  assert found[0].names == ("first", "second")
  with pytest.raises(ValueError, match="no pairs with different responses"):
    items.from_pairs(pairs[1:2])
