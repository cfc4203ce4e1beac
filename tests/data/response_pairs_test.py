# SPDX-License-Identifier: Apache-2.0
"""Pairs of samples: which are paired, in an order without information."""

from __future__ import annotations

from rlaif_jax.core import records
from rlaif_jax.data import response_pairs


def response(name, index, text):
  return records.Response(
    id=name, index=index, context="c", text=text, tokens=1, finished=True
  )


def test_samples_are_paired_in_order_and_the_first_with_the_human_text():
  examples = [
    records.Example(id=name, context="c", response=f"human {name}")
    for name in ("a", "b")
  ]
  responses = [
    response(name, i, f"{name} {i}") for i in range(5) for name in ("a", "b")
  ]
  assert list(response_pairs.by_context(responses)) == ["a", "b"]
  pairs = response_pairs.make_pairs(examples, responses, 5, True)
  texts = [({p.first, p.second}, p.source) for p in pairs[:3]]
  assert texts == [
    ({"a 0", "a 1"}, "samples"),
    ({"a 2", "a 3"}, "samples"),
    ({"a 0", "human a"}, "human"),
  ]
  assert len(response_pairs.make_pairs(examples, responses, 5, False)) == 4


def test_the_order_of_a_pair_carries_no_information():
  firsts = 0
  for number in range(60):
    example = records.Example(id=str(number), context="c", response="h")
    rows = [response(str(number), i, f"{number} {i}") for i in range(2)]
    (pair,) = response_pairs.make_pairs([example], rows, 2, False)
    firsts += pair.first == f"{number} 0"
  assert 18 < firsts < 42


def test_the_best_of_each_context():
  rows = [response(n, i, f"{n} {i}") for n in ("a", "b") for i in range(3)]
  scores = {"a/0": 1.0, "a/1": 3.0, "a/2": 2.0, "b/0": 5.0, "b/2": 5.0}
  best = response_pairs.best(rows, scores)
  # Of equal ones the first; b/1 has no score.
  assert [row.text for row in best] == ["a 1", "b 0"]
  assert response_pairs.best(rows[:4], scores) == []
  assert response_pairs.best([], {}) == []
