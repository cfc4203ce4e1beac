# SPDX-License-Identifier: Apache-2.0
"""Rows of public judge benchmarks become items."""

from __future__ import annotations

import pytest

from rlaif_jax.core import records
from rlaif_jax.data import benchmark_formats
from rlaif_jax.data import benchmarks

ROW = {
  "prompt": "Name a prime.",
  "chosen": "Seven.",
  "rejected": "Nine.",
  "subset": "math",
  "id": 3,
}
BEST_OF_4 = {
  "id": "ref:1",
  "prompt": "Name a prime.",
  "chosen": ["7"],
  "rejected": ["8", "9", "10"],
  "num_correct": 1,
  "num_incorrect": 3,
  "total_completions": 4,
  "subset": "Math",
}
DUEL = {
  "pair_id": "x1",
  "source": "livebench-math",
  "question": "Name a prime.",
  "response_A": "Nine.",
  "response_B": "Seven.",
  "label": "B>A",
}
DIALOGUE = (
  "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: A prime?\n\nAssistant:"
)


def read(*rows):
  """Returns the benchmark of rows of one format."""
  name = benchmark_formats.recognise(rows[0])
  known = benchmark_formats.FORMATS[name]
  return benchmarks.Benchmark(name, [known.read(row) for row in rows])


def better(pair):
  """Returns the (better, worse) response of a pair."""
  texts = (pair.first, pair.second)
  return texts if pair.p_first == 1.0 else texts[::-1]


def test_a_row_of_reward_bench():
  found = read(ROW)
  assert found.format == "reward_bench"
  (item,) = found.items
  (pair,) = item.pairs
  assert (item.id, item.subset, pair.id) == ("3", "math", "math/3")
  assert (pair.context, pair.source) == ("Name a prime.", "math")
  assert pair.labeler == "human" and better(pair) == ("Seven.", "Nine.")


def test_prompts_and_responses_may_be_messages():
  user = {"role": "user", "content": "Name a prime."}
  replies = [
    {"role": "assistant", "content": text} for text in ("Seven.", "Nine.")
  ]
  as_text = read(ROW).pairs
  assert read({**ROW, "prompt": [user]}).pairs == as_text
  whole = {
    **ROW,
    "chosen": [user, replies[0]],
    "rejected": [user, replies[1]],
  }
  assert read(whole).pairs == as_text
  bare = {k: v for k, v in whole.items() if k != "prompt"}
  assert read(bare).format == "dialogues"
  assert read(bare).pairs == as_text
  talk = [{"role": "system", "content": "Be brief."}, user, replies[1], user]
  (pair,) = read({**ROW, "prompt": talk}).pairs
  assert pair.context == (
    "System: Be brief.\nHuman: Name a prime.\nAssistant: Nine.\n"
    "Human: Name a prime."
  )


def test_dialogues_are_split_before_the_last_turn():
  row = {"chosen": f"{DIALOGUE} Seven.", "rejected": f"{DIALOGUE} Nine."}
  (item,) = read(row).items
  (pair,) = item.pairs
  rows = [{**row, "chosen": f"{DIALOGUE} {i}"} for i in range(20)]
  assert [better(pair) for pair in read(*rows).pairs] == [
    (str(i), "Nine.") for i in range(20)
  ]
  assert pair.context == "Human: Hi.\nAssistant: Hello.\nHuman: A prime?"
  assert (
    item.id == pair.id == records.content_id(pair.context, "Seven.", "Nine.")
  )


def test_best_of_four_has_a_pair_for_each_rejected_response():
  found = read(BEST_OF_4)
  assert found.format == "reward_bench_2"
  (item,) = found.items
  assert item.num_chosen == 1 and item.id == "ref:1"
  assert [pair.id for pair in item.pairs] == [
    f"Math/ref:1/0-{j}" for j in range(3)
  ]
  assert [better(pair) for pair in item.pairs] == [
    ("7", "8"),
    ("7", "9"),
    ("7", "10"),
  ]
  tied = {**BEST_OF_4, "chosen": ["7", "5"], "num_correct": 2}
  (item,) = read({**tied, "subset": "Ties"}).items
  assert item.num_chosen == 2
  assert [better(pair)[0] for pair in item.pairs] == ["7"] * 3 + ["5"] * 3


def test_a_duel_of_judge_bench():
  found = read(DUEL)
  assert found.format == "judge_bench"
  (pair,) = found.pairs
  assert better(pair) == ("Seven.", "Nine.")
  assert (pair.id, pair.source) == ("livebench-math/x1", "livebench-math")
  (pair,) = read({**DUEL, "label": "A>B"}).pairs
  assert better(pair) == ("Nine.", "Seven.")


@pytest.mark.parametrize(
  "row, reason",
  [
    (BEST_OF_4 | {"num_correct": 2}, "chosen has 1 responses, and .* counts 2"),
    (BEST_OF_4 | {"num_incorrect": 2}, "rejected has 3 responses"),
    (BEST_OF_4 | {"rejected": [], "num_incorrect": 0}, "needs one of each"),
    (BEST_OF_4 | {"chosen": [None]}, "chosen is None"),
    (BEST_OF_4 | {"chosen": "7"}, "chosen is '7'; it must be a list"),
    (BEST_OF_4 | {"subset": "Ties", "id": 7}, "subset Ties is 7; it must be"),
    (DUEL | {"label": "A=B"}, "label is 'A=B'; it must be 'A>B' or 'B>A'"),
    ({"a": 1, "b": 2}, r"\['a', 'b'\] are of no known .*--format=columns"),
  ],
)
def test_rows_of_another_form_are_errors(row, reason):
  with pytest.raises(ValueError, match=reason):
    read(row)
