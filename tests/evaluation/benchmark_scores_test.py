# SPDX-License-Identifier: Apache-2.0
"""Scores of judge benchmarks, computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rlaif_jax.core import records
from rlaif_jax.evaluation import benchmark_scores


def pair(name, *, p_first=1.0, subset="s", first="long text", second="text"):
  return records.Preference(
    id=name,
    context="c",
    first=first,
    second=second,
    p_first=p_first,
    labeler="human",
    source=subset,
  )


def item(name, chosen=1, rejected=1, subset="s"):
  """An item whose chosen responses are stored first and second in turn."""
  pairs = tuple(
    pair(f"{name}/{i}-{j}", p_first=float((i + j) % 2), subset=subset)
    for i in range(chosen)
    for j in range(rejected)
  )
  return records.BenchmarkItem(
    id=name, subset=subset, pairs=pairs, num_chosen=chosen
  )


def label(human, p, orders=()):
  """A judge's label: P(first is better)."""
  return records.Preference(
    **records.to_row(records.pair_of_row(records.to_row(human))),
    p_first=p,
    p_orders=orders,
    labeler="judge",
  )


def labels_of(item, table):
  """Labels of the pairs of an item, from P(chosen is better)."""
  values = np.asarray(table, float).reshape(-1)
  return {
    h.id: label(h, float(p if h.p_first else 1 - p))
    for h, p in zip(item.pairs, values, strict=True)
  }


@pytest.mark.parametrize(
  "table, score",
  [
    ([[0.9]], 1.0),
    ([[0.5]], 0.5),
    ([[0.4]], 0.0),
    ([[0.9, 0.6, 0.51]], 1.0),
    ([[0.9, 0.6, 0.49]], 0.0),
    ([[0.9, 0.5, 0.6]], 1 / 2),  # two share the first place
    ([[0.5, 0.5, 0.5]], 1 / 4),
    ([[0.5, 0.4, 0.9]], 0.0),
    ([[0.9, 0.8], [0.7, 0.5]], 1 / 2),
  ],
)
def test_the_chosen_response_should_win_every_pair(table, score):
  assert benchmark_scores.best_of(np.asarray(table)) == pytest.approx(score)


def test_scores_are_recovered_from_all_pairs():
  chosen, rejected = np.array([0.3, 0.1, 0.2]), np.array([-0.1, 0.0])
  p = 0.5 + chosen[:, None] - rejected
  c, r = benchmark_scores.fitted_scores(p)
  np.testing.assert_allclose(np.subtract.outer(c, r), p - 0.5)


def test_the_fit_has_the_least_squares():
  """Against numpy's least squares on the same equations."""
  p = np.random.default_rng(0).random((3, 4))
  rows, values = [], []
  for i, j in itertools.product(range(3), range(4)):
    row = np.zeros(7)
    row[i], row[3 + j] = 1, -1
    rows.append(row)
    values.append(p[i, j] - 0.5)
  expected = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
  c, r = benchmark_scores.fitted_scores(p)
  found = np.concatenate([c, r])
  np.testing.assert_allclose(found - found[0], expected - expected[0])


def test_ties_by_hand():
  # Right 0.9 and 0.8 against wrong 0.5: gap 0.3, spread 0.1.
  tied = np.array([[0.9], [0.8]])
  # Gap 0.2 of the reference is the least one: 0.2 / 0.1 - 1 = 1.
  found = benchmark_scores.ties_scores(np.array([[0.7]]), tied)
  assert found == pytest.approx((1, 1, 1, 1, math.tanh(1.0)))
  # The reference is wrong: gap -0.1.
  found = benchmark_scores.ties_scores(np.array([[0.4]]), tied)
  assert found == pytest.approx((1, 0, 1, 0, math.tanh(-2.0)))
  # Gap 0.1 is below the spread of 0.3.
  found = benchmark_scores.ties_scores(
    np.array([[0.7]]), np.array([[0.9], [0.6]])
  )
  assert found == pytest.approx((1, 1, 0, 0, math.tanh(1 / 3 - 1)))


def test_ties_without_a_spread():
  equal = np.array([[0.8], [0.8]])
  score = benchmark_scores.ties_scores
  assert score(np.array([[0.7]]), equal) == (1, 1, 1, 1, 1.0)
  assert score(np.array([[0.3]]), equal) == (1, 0, 1, 0, -1.0)
  assert score(np.array([[0.5]]), equal) == (1, 0, 1, 0, 0.0)


def test_the_score_of_ties_weights_the_parts():
  items, p = [], {}
  for n, reference, tied in ((1, 0.7, (0.9, 0.8)), (2, 0.4, (0.9, 0.8))):
    one = item(f"ref:{n}", subset="Ties")
    many = item(f"tied:{n}", chosen=2, subset="Ties")
    items += [one, many]
    p |= labels_of(one, [reference]) | labels_of(many, tied)
  items.append(item("ref:3", subset="Ties"))  # not answered with several
  p |= labels_of(items[-1], [0.1])
  score = benchmark_scores.subset_score("reward_bench_2", items, p)
  first = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(1.0)
  second = 0.3 + 0.2 + 0.01 * math.tanh(-2.0)
  assert score.n == 2
  assert score.value == pytest.approx((first + second) / 2)


def test_items_without_all_labels_are_left_out():
  items = [item(str(i), rejected=3) for i in range(3)]
  p = labels_of(items[0], [0.9, 0.8, 0.7]) | labels_of(
    items[1], [0.9, 0.8, 0.3]
  )
  p |= labels_of(items[2], [0.9, 0.8, 0.7])
  del p["2/0-1"]
  score = benchmark_scores.subset_score("reward_bench_2", items, p)
  assert (score.value, score.n, score.method) == (0.5, 2, "Wilson")
  assert benchmark_scores.subset_score("reward_bench_2", items, {}).n == 0


def test_the_majority_of_humans_counts_and_their_ties_do_not():
  items = [
    records.BenchmarkItem(id=n, subset="s", pairs=(pair(n, p_first=p),))
    for n, p in (("a", 0.75), ("b", 0.5), ("c", 0.0))
  ]
  labels = {
    item.id: label(item.pairs[0], p)
    for item, p in zip(items, (0.9, 0.9, 0.5), strict=True)
  }
  score = benchmark_scores.subset_score("x", items, labels)
  assert (score.value, score.n) == ((1.0 + 0.5) / 2, 2)
  assert benchmark_scores.subset_score("x", items[1:2], labels).n == 0


@pytest.mark.parametrize(
  "orders, is_right",
  [
    ((0.9, 0.6), True),
    ((0.9, 0.5), True),
    ((0.9, 0.4), False),  # Their mean is right.
    ((0.5, 0.5), False),
    ((0.2, 0.3), False),
    ((), True),
  ],
)
def test_judge_bench_counts_orders(orders, is_right):
  for truth in (1.0, 0.0):
    human = pair("a", p_first=truth)
    found = label(human, 0.7, orders)
    if not truth:
      found = label(human, 0.3, tuple(1 - p for p in orders))
    assert benchmark_scores.is_right_by_orders(found, human) == is_right
    one = records.BenchmarkItem(id="a", subset="s", pairs=(human,))
    score = benchmark_scores.subset_score("judge_bench", [one], {"a": found})
    assert (score.value, score.n) == (float(is_right), 1)
    score = benchmark_scores.subset_score("reward_bench", [one], {"a": found})
    assert score.value == 1.0


def test_published_weights():
  """The numbers of prompts: 358, 456, 740, and twice 984 for reasoning."""
  totals = {
    name: sum(weights.values())
    for name, weights in benchmark_scores.REWARD_BENCH.items()
  }
  assert totals == {
    "Chat": 358,
    "Chat Hard": 456,
    "Safety": 740,
    "Reasoning": 1968,
  }
  subsets = [s for w in benchmark_scores.REWARD_BENCH.values() for s in w]
  assert len(subsets) == len(set(subsets)) == 23


def scores(value=0.5):
  return {
    subset: value
    for weights in benchmark_scores.REWARD_BENCH.values()
    for subset in weights
  }


def test_sections_of_reward_bench_by_hand():
  found = scores() | {"alpacaeval-easy": 1.0, "math-prm": 0.9, "hep-go": 0.8}
  sections, overall = benchmark_scores.sections("reward_bench", found, {})
  by_name = {section.name: section.score for section in sections}
  assert by_name["Chat"] == pytest.approx((100 + 0.5 * 258) / 358)
  # Math weighs as much as the six languages together.
  code = (0.8 + 5 * 0.5) / 6
  assert by_name["Reasoning"] == pytest.approx((0.9 + code) / 2)
  assert by_name["Safety"] == by_name["Chat Hard"] == pytest.approx(0.5)
  assert overall == pytest.approx(sum(by_name.values()) / 4)


def test_unknown_and_missing_subsets_do_not_enter_a_published_section():
  found = {"llmbar-natural": 0.9, "mine": 0.2, "donotanswer": None}
  sections, overall = benchmark_scores.sections("reward_bench", found, {})
  assert overall is None
  hard, mine = sections
  assert (hard.name, hard.score, hard.subsets) == (
    "Chat Hard",
    None,
    ("llmbar-natural",),
  )
  assert len(hard.missing) == 5 and hard.is_published
  assert mine == ("mine", 0.2, ("mine",), (), False)
  # Known names are published for their benchmark only.
  found = benchmark_scores.sections("dialogues", scores(), {})
  assert found[1] is None and not any(s.is_published for s in found[0])


def test_sections_of_reward_bench_2_have_equal_weight():
  found = dict.fromkeys(benchmark_scores.REWARD_BENCH_2, 0.4) | {"Ties": 1.0}
  sections, overall = benchmark_scores.sections("reward_bench_2", found, {})
  assert len(sections) == 6 and overall == pytest.approx((5 * 0.4 + 1) / 6)
  del found["Focus"]
  sections, overall = benchmark_scores.sections("reward_bench_2", found, {})
  assert len(sections) == 5 and overall is None


def test_sections_of_judge_bench_weight_pairs():
  found = {"mmlu-pro-law": 1.0, "mmlu-pro-math": 0.4, "livebench-math": 0.5}
  counts = {"mmlu-pro-law": 1, "mmlu-pro-math": 3, "livebench-math": 8}
  sections, overall = benchmark_scores.sections("judge_bench", found, counts)
  by_name = {section.name: section.score for section in sections}
  assert by_name == {"Knowledge": pytest.approx(2.2 / 4), "Math": 0.5}
  assert overall is None
  more = {"livebench-reasoning": 0.1, "livecodebench": 0.2}
  _, overall = benchmark_scores.sections(
    "judge_bench", found | more, counts | dict.fromkeys(more, 2)
  )
  total = 4 * 0.55 + 8 * 0.5 + 2 * 0.1 + 2 * 0.2
  assert overall == pytest.approx(total / 16)


def test_each_subset_has_its_own_numbers():
  items = [item(str(i), subset="ab"[i % 2]) for i in range(8)]
  humans = [human for i in items for human in i.pairs]  # all prefer second
  labels = [
    label(humans[0], 0.2, (0.1, 0.3)),  # right
    label(humans[2], 0.8, (0.9, 0.7)),  # wrong
    label(humans[4], 0.5, (0.9, 0.1)),  # the first position twice
    label(humans[1], 0.1, (0.1, 0.1)),  # right; of the other subset
  ]
  rows, found = benchmark_scores.measure(labels, "x", items, {"a": 1.5})
  a, b = rows
  assert (a["subset"], a["items"], a["pairs"]) == ("a", 4, 4)
  assert a["score"] == a["alignment"]["accuracy"]
  assert a["score"]["value"] == 0.5 and a["score"]["n"] == 3
  assert a["alignment"]["unanswered"] == 1
  assert a["alignment"]["longer_wins"]["value"] == 0.0
  assert a["position_bias"]["consistent"]["value"] == pytest.approx(2 / 3)
  assert a["position_bias"]["same_position"]["value"] == pytest.approx(1 / 3)
  assert a["position_bias"]["first_side"]["value"] == 1.0
  assert a["calibration"]["brier"]["value"] == pytest.approx(0.93 / 3)
  assert a["length"]["judge"]["value"] == 0.5  # one, none, half
  assert (a["cost_usd"], b["cost_usd"]) == (1.5, 0.0)
  assert b["score"]["value"] == 1.0 and b["score"]["n"] == 1
  assert [s["name"] for s in found["sections"]] == ["a", "b"]
  rows, found = benchmark_scores.measure([], "x", items, {})
  assert rows[0]["alignment"] is None
  assert [s["score"] for s in found["sections"]] == [None, None]
