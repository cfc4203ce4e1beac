# SPDX-License-Identifier: Apache-2.0
"""Training data of judges: which judgment is right, in every order."""

from __future__ import annotations

import dataclasses

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import judge_training
from tests import tiny_judge


@pytest.fixture(name="config")
def fixture_config(tmp_path):
  return tiny_judge.config(tmp_path)


def label(number=0, p_first=1.0, **changes):
  return records.Preference(
    id=f"p{number}",
    context="doc",
    first="one",
    second="two",
    p_first=p_first,
    labeler="human",
    **changes,
  )


def judgments(labels, config, **changes):
  settings = {"seed": 0, "quarantine": jsonl.Quarantine()}
  return judge_training.judgments(labels, config, None, **settings | changes)


def chains(labels, judged, config, **changes):
  settings = {"max_per_prompt": 9, "quarantine": jsonl.Quarantine()}
  return judge_training.chains(
    labels, {row.id: row for row in judged}, config, None, **settings | changes
  )


PROMPT = "read\ndoc\n1\n{}\n2\n{}\nA=\n"


@pytest.mark.parametrize("p_first, right", [(1.0, "12"), (0.2, "21")])
def test_the_right_option_names_the_better_response(config, p_first, right):
  data = judgments([label(p_first=p_first)], config)
  assert [(row.context, row.response) for row in data.examples] == [
    (PROMPT.format("one", "two"), right[0]),
    (PROMPT.format("two", "one"), right[1]),
  ]
  assert [(row.first, row.second) for row in data.pairs] == [
    (right[0], right[1]),
    (right[1], right[0]),
  ]
  assert all(row.p_first == 1.0 for row in data.pairs)
  assert [row.id for row in data.examples] == ["p0/0", "p0/1"]


def test_a_template_that_asks_for_the_worse_one(config, tmp_path):
  path = tmp_path / "flip.toml"
  path.write_text('polarity = "flip"\n' + tiny_judge.TEMPLATE)
  flipped = dataclasses.replace(config, template=str(path))
  plain, other = (judgments([label()], c) for c in (config, flipped))
  assert [row.response for row in plain.examples] == ["1", "2"]
  assert [row.response for row in other.examples] == ["2", "1"]


def test_one_order_at_random(config):
  one = dataclasses.replace(config, orders="first")
  rows = [label(i) for i in range(60)]
  data = judgments(rows, one)
  assert len(data.examples) == 60
  first = [row.response for row in data.examples]
  assert 20 < first.count("1") < 40
  for row in data.examples:
    shown = ("one", "two") if row.response == "1" else ("two", "one")
    assert row.context == PROMPT.format(*shown)
  assert judgments(rows, one) == data
  assert judgments(rows, one, seed=1) != data


def test_ties_and_pairs_without_a_prompt_are_left_out(config):
  bad = dataclasses.replace(label(2), first="A=")
  quarantine = jsonl.Quarantine()
  data = judgments(
    [label(0), label(1, 0.5), bad], config, quarantine=quarantine
  )
  assert data.counts == {"ties": 1, "prompts": 2}
  assert [row["row"]["id"] for row in quarantine.rows] == ["p2"]


def judged(number=0, rationales=("a", "b", "c", "d"), p=(0.9, 0.2, 0.7, 0.5)):
  """Two rationales in each order, with P(first is better) after each."""
  return label(number, rationales=rationales, p_rationales=p)


def test_chains_are_sorted_by_their_judgment(config):
  cot = dataclasses.replace(config, chain_of_thought=True)
  data = chains([label()], [judged()], cot)
  # First order: "a" says that the first is better, "b" that the second is.
  # Second order: the first response is shown second, so that option "2" names
  # it; "d" decides nothing.
  asked = ["read\ndoc\n1\none\n2\ntwo\nW=\n", "read\ndoc\n1\ntwo\n2\none\nW=\n"]
  assert [(row.context, row.response) for row in data.examples] == [
    (asked[0], "a\nA=\n1"),
    (asked[1], "c\nA=\n2"),
  ]
  ((context, right, wrong),) = [
    (row.context, row.first, row.second) for row in data.pairs
  ]
  assert (context, right, wrong) == (asked[0], "a\nA=\n1", "b\nA=\n2")
  assert data.counts == {
    "ties": 0,
    "unjudged": 0,
    "undecided_chains": 1,
    "prompts": 2,
    "right_chains": 2,
    "wrong_chains": 1,
    "prompts_with_pairs": 1,
  }
  # The other label turns right into wrong.
  other = chains([label(p_first=0.0)], [judged()], cot)
  assert [row.response for row in other.examples] == ["b\nA=\n2"]
  assert other.pairs[0].first == "b\nA=\n2"


def test_equal_chains_count_once_and_the_number_is_limited(config):
  cot = dataclasses.replace(config, chain_of_thought=True)
  many = judged(
    rationales=("a", "a", "b", "x", "y", "z") * 2, p=(0.9,) * 3 + (0.1,) * 9
  )
  data = chains([label()], [many], cot)
  first = [row.response for row in data.examples if row.id.startswith("p0/0")]
  assert first == ["a\nA=\n1", "b\nA=\n1"]
  assert [(row.first[0], row.second[0]) for row in data.pairs] == [
    ("a", "x"),
    ("b", "y"),
  ]
  assert data.counts["right_chains"] == 3
  few = chains([label()], [many], cot, max_per_prompt=1)
  assert len(few.examples) == len(few.pairs) == 1


def test_judged_pairs_are_those_of_the_labels(config):
  cot = dataclasses.replace(config, chain_of_thought=True)
  data = chains([label(0), label(1), label(2, 0.5)], [judged(0)], cot)
  assert (data.counts["unjudged"], data.counts["ties"]) == (1, 1)
  turned = dataclasses.replace(judged(), first="two", second="one")
  with pytest.raises(ValueError, match="p0 has other texts, or another order"):
    chains([label()], [turned], cot)
  for bad in (label(), judged(rationales=("a",), p=(0.1,))):
    with pytest.raises(ValueError, match="chain_of_thought = True and orders"):
      chains([label()], [bad], cot)
