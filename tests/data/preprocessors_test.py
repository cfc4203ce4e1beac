# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.data.preprocessors: published rows, as we wrote them."""

from __future__ import annotations

import copy

import pytest

from rlaif_jax.core import records
from rlaif_jax.data import preprocessors

TLDR = {
  "id": "t3_abc12",
  "subreddit": "r/cooking",
  "title": "My bread does not rise ",
  "post": " I baked for a week.\n\nNothing rose.",
  "summary": " a week of flat bread; what is wrong?",
}


def comparison(i: int = 0, choice: int = 0, **changes):
  return {
    "info": {
      "id": f"t3_{i}",
      "post": f"Post number {i}.",
      "title": "A title",
      "subreddit": "tifu",
      "site": None,
      "article": None,
    },
    "summaries": [
      {"text": f" first {i}", "policy": "sup1", "note": "fine"},
      {"text": f" second {i}", "policy": "ref", "note": None},
    ],
    "choice": choice,
    "worker": "w7",
    "batch": "batch3",
    "split": "train",
    "extra": {"confidence": 8},
    **changes,
  }


def dialogue(i: int = 0, chosen: str = "Good.", rejected: str = "Bad."):
  start = (
    f"\n\nHuman: Question {i}?\n\nwith a paragraph\n\nAssistant: What?"
    "\n\nHuman: That.\n\nAssistant: "
  )
  return {
    "chosen": f"{start}{chosen} {i}",
    "rejected": f"{start}{rejected} {i}",
  }


def test_tldr():
  example = preprocessors.tldr(TLDR)
  assert example.context == (
    "SUBREDDIT: r/cooking\nTITLE: My bread does not rise\n"
    "POST: I baked for a week.\n\nNothing rose."
  )
  assert example.response == "a week of flat bread; what is wrong?"
  # The files differ in whether they write r/.
  assert preprocessors.tldr({**TLDR, "subreddit": "cooking"}) == (
    records.Example(
      **{**records.to_row(example), "source": "cooking"},
    )
  )


def test_comparison():
  for choice in (0, 1):
    p = preprocessors.comparison(comparison(choice=choice))
    better = p.first if p.p_first == 1.0 else p.second
    assert better == ("first 0", "second 0")[choice]
    assert {p.first, p.second} == {"first 0", "second 0"}
    assert p.p_first in (0.0, 1.0)
    assert (p.confidence, p.source, p.labeler) == (8, "tifu", "human")
    assert (
      p.context == "SUBREDDIT: r/tifu\nTITLE: A title\nPOST: Post number 0."
    )


def test_comparison_of_a_record_of_lists():
  """As TFDS gives a sequence of records."""
  row = comparison()
  lists = {"text": [" first 0", " second 0"], "policy": ["sup1", "ref"]}
  assert preprocessors.comparison({**row, "summaries": lists}) == (
    preprocessors.comparison(row)
  )


def test_dialogue_splits_at_the_last_assistant_turn():
  p = preprocessors.dialogue(dialogue(3))
  assert p.context == (
    "Human: Question 3?\n\nwith a paragraph\nAssistant: What?\nHuman: That."
  )
  better = p.first if p.p_first == 1.0 else p.second
  assert better == "Good. 3"
  assert {p.first, p.second} == {"Good. 3", "Bad. 3"}


@pytest.mark.parametrize(
  "parse, make",
  [
    (preprocessors.dialogue, dialogue),
    (preprocessors.comparison, comparison),
  ],
  ids=["dialogue", "comparison"],
)
def test_position_is_random(parse, make):
  """The files give the better text first, or the first summary first."""
  rows = [parse(make(i)) for i in range(2000)]
  share = sum(row.p_first for row in rows) / len(rows)
  assert 0.45 < share < 0.55
  assert rows == [parse(make(i)) for i in range(2000)]


@pytest.mark.parametrize(
  "changes, reason",
  [
    ({"post": "  "}, "post is empty"),
    ({"summary": ""}, "summary is empty"),
    ({"title": None}, r"missing \['title'\]"),
    ({"subreddit": 4}, "subreddit is int"),
  ],
)
def test_bad_posts(changes, reason):
  with pytest.raises(ValueError, match=reason):
    preprocessors.tldr({**TLDR, **changes})


@pytest.mark.parametrize(
  "changes, reason",
  [
    ({"choice": 2}, "choice 2"),
    ({"choice": None}, r"missing \['choice'\]"),
    ({"summaries": [{"text": "one"}]}, "1 summaries"),
    ({"summaries": [{"text": "a"}, {"text": " a"}]}, "are the same"),
    ({"summaries": [{"text": "a"}, {"text": " "}]}, "summary is empty"),
    ({"extra": {"confidence": 10}}, "confidence 10"),
    # The news articles of the same release.
    ({"info": {"id": "x", "article": "Long.", "post": None}}, "missing"),
  ],
)
def test_bad_comparisons(changes, reason):
  with pytest.raises(ValueError, match=reason):
    preprocessors.comparison({**comparison(), **changes})


@pytest.mark.parametrize(
  "chosen, rejected, reason",
  [
    ("Human: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c", "begin with"),
    ("\n\nHuman: a", "\n\nHuman: a", "end with an Assistant"),
    ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "", "end with an Assistant"),
    ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: z\n\nAssistant: c", "differ"),
    ("\n\nHuman: a\n\nAssistant: ", "\n\nHuman: a\n\nAssistant: c", "empty"),
    ("\n\nHuman: a\n\nAssistant: c", "\n\nHuman: a\n\nAssistant: c ", "same"),
    (None, "\n\nHuman: a\n\nAssistant: c", "missing"),
    (7, "\n\nHuman: a\n\nAssistant: c", "begin with"),
  ],
)
def test_bad_dialogues(chosen, rejected, reason):
  with pytest.raises(ValueError, match=reason):
    preprocessors.dialogue({"chosen": chosen, "rejected": rejected})


@pytest.mark.parametrize("parse", ["tldr", "comparison", "dialogue"])
def test_a_row_is_an_object(parse):
  with pytest.raises(ValueError, match="a list; a row is an object"):
    getattr(preprocessors, parse)([1, 2])


def test_rows_are_not_changed():
  row = comparison()
  before = copy.deepcopy(row)
  preprocessors.comparison(row)
  assert row == before


def test_the_study_keeps_high_confidence():
  kept = [
    c
    for c in range(10)
    if preprocessors.is_confident(
      preprocessors.comparison(comparison(extra={"confidence": c}))
    )
  ]
  assert kept == [1, 2, 8, 9]


@pytest.mark.parametrize(
  "name, split",
  [
    ("train", "train"),
    ("valid1", "validation"),
    ("valid2", "validation"),
    (None, None),
  ],
)
def test_split_that_a_comparison_names(name, split):
  assert preprocessors.comparison_split({"split": name}) == split


def test_unknown_split_is_an_error():
  with pytest.raises(ValueError, match="split 'trial'"):
    preprocessors.comparison_split({"split": "trial"})


def test_shares_are_by_hash():
  ids = [records.content_id(str(i)) for i in range(5000)]
  kept = [i for i in ids if preprocessors.in_share(i, 0.15, "study")]
  assert abs(len(kept) / len(ids) - 0.15) < 0.02
  other = [i for i in ids if preprocessors.in_share(i, 0.15, "other")]
  assert kept != other
