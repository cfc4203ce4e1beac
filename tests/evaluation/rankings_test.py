# SPDX-License-Identifier: Apache-2.0
"""Win rates and agreement from ranks, counted by hand and simulated."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from rlaif_jax.core import jsonl
from rlaif_jax.evaluation import rankings


def ranking(name, rater, order):
  return rankings.Ranking(id=name, rater=rater, order=tuple(order))


# "abc" is: a first, then b, then c.
ROWS = [
  ranking("1", "x", "abc"),
  ranking("1", "y", "abc"),
  ranking("1", "z", "bac"),
  ranking("2", "x", "cba"),
  ranking("2", "y", "bca"),
  ranking("3", "x", "acb"),
]


def simulated(items=150, raters=3, seed=0):
  """Raters who see the same qualities of three responses through noise."""
  generator = np.random.default_rng(seed)
  rows = []
  for i in range(items):
    quality = generator.normal([0.6, 0.3, 0.0], 1.0)
    for r in range(raters):
      seen = quality + generator.normal(0, 0.8, 3)
      order = [("RLAIF", "RLHF", "SFT")[k] for k in np.argsort(-seen)]
      rows.append(ranking(f"item {i}", f"rater {r}", order))
  return rows


def test_pooled_raters_by_hand():
  result = rankings.compare(("a", "b"), ROWS)
  # Item 1: 2 of 3, item 2: 0 of 2, item 3: 1 of 1.
  assert result.win_rate.value == pytest.approx(3 / 6)
  assert (result.items, result.ratings, result.votes) == (3, 6, "pooled")
  assert (result.win_rate.n, result.wilson.n) == (6, 3)
  assert result.win_rate.method == "bootstrap of 3 clusters"
  # By item: a, b, a.
  assert (result.test.statistic, result.test.effect.n) == (2, 3)
  assert result.length is None and result.length_ratio is None


def test_the_majority_by_hand():
  rows = [*ROWS, ranking("4", "x", "abc"), ranking("4", "y", "bac")]
  result = rankings.compare(("a", "b"), rows, votes="majority")
  # a, b, a and a split vote.
  assert result.win_rate.value == pytest.approx(2.5 / 4)
  assert result.wilson.value == pytest.approx(2.5 / 4)
  assert (result.items, result.ratings, result.win_rate.n) == (4, 8, 4)
  assert result.test.effect.n == 3
  pooled = rankings.compare(("a", "b"), rows)
  assert pooled.win_rate.value == pytest.approx(4 / 8)


@pytest.mark.parametrize("votes", rankings.VOTES)
def test_swapping_gives_the_mirror_image(votes):
  rows = simulated()
  lengths = some_lengths(rows)
  forth = rankings.compare(("RLAIF", "SFT"), rows, votes=votes, lengths=lengths)
  back = rankings.compare(("SFT", "RLAIF"), rows, votes=votes, lengths=lengths)
  for a, b in (
    (forth.win_rate, back.win_rate),
    (forth.wilson, back.wilson),
    (forth.length.log_ratio, back.length.log_ratio),
  ):
    assert a.value == pytest.approx(1 - b.value, abs=1e-9)
    assert a.low == pytest.approx(1 - b.high, abs=1e-9)
  assert forth.test.p_value == pytest.approx(back.test.p_value)


@pytest.mark.parametrize("votes", rankings.VOTES)
def test_the_order_of_rows_does_not_matter(votes):
  rows = simulated(40)
  mixed = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
  assert rankings.matrix(rows, votes=votes) == rankings.matrix(
    mixed, votes=votes
  )
  assert rankings.concordance(rows) == rankings.concordance(mixed)


def test_raters_who_only_copy_add_no_certainty():
  one = simulated(raters=1)
  three = [
    ranking(r.id, f"{r.rater} {k}", r.order) for r in one for k in range(3)
  ]
  lengths = some_lengths(one)
  names = ("RLAIF", "SFT")
  a = rankings.compare(names, one, lengths=lengths)
  b = rankings.compare(names, three, lengths=lengths)
  assert (b.items, b.ratings) == (150, 450)
  assert b.win_rate.low == pytest.approx(a.win_rate.low)
  assert b.wilson.low == pytest.approx(a.wilson.low)
  assert b.test.p_value == pytest.approx(a.test.p_value)
  assert b.length.ratio.low == pytest.approx(a.length.ratio.low, abs=1e-5)
  assert b.length_ratio == a.length_ratio


def test_raters_who_differ_add_certainty():
  few, many = (
    rankings.compare(("RLAIF", "SFT"), simulated(raters=r)) for r in (1, 9)
  )
  width = [e.high - e.low for e in (few.win_rate, many.win_rate)]
  assert width[1] < 0.85 * width[0]


def some_lengths(rows):
  generator = np.random.default_rng(5)
  ids = sorted({row.id for row in rows})
  return {
    name: dict(zip(ids, generator.uniform(40, 80, len(ids)) * factor))
    for name, factor in (("RLAIF", 1.2), ("RLHF", 1.2), ("SFT", 1.0))
  }


def test_raters_who_rank_by_length_alone_are_even_at_equal_length():
  generator = np.random.default_rng(0)
  lengths = {"A": {}, "B": {}}
  rows = []
  for i in range(400):
    name = f"{i:03d}"
    for policy, factor in (("A", 1.3), ("B", 1.0)):
      lengths[policy][name] = float(generator.uniform(40, 80) * factor)
    gap = 4 * math.log(lengths["A"][name] / lengths["B"][name])
    for rater in "xyz":
      first = gap + generator.logistic() > 0
      rows.append(ranking(name, rater, "AB" if first else "BA"))
  for votes in rankings.VOTES:
    result = rankings.compare(("A", "B"), rows, votes=votes, lengths=lengths)
    assert result.win_rate.low > 0.6
    assert result.length.log_ratio.low < 0.5 < result.length.log_ratio.high
    assert result.length_ratio.value == pytest.approx(1.3, rel=0.03)


def test_equal_lengths_give_the_plain_win_rate():
  lengths = {p: {i: 50.0 for i in "123"} for p in "abc"}
  result = rankings.compare(("a", "b"), ROWS, lengths=lengths)
  assert result.length.ratio.value == pytest.approx(
    result.win_rate.value, abs=1e-6
  )


def test_matrix_has_each_pair_once_and_items_that_hold_both():
  rows = [*ROWS, ranking("9", "x", "ad"), ranking("9", "y", "da")]
  found = {(c.a, c.b): c for c in rankings.matrix(rows)}
  assert list(found) == list(itertools.combinations("abcd", 2))
  assert found["a", "b"].items == 3
  assert (found["a", "d"].items, found["a", "d"].win_rate.value) == (1, 0.5)
  assert math.isnan(found["a", "d"].win_rate.low)
  never = found["b", "d"]
  assert (never.items, never.ratings, never.win_rate.n) == (0, 0, 0)
  assert math.isnan(never.win_rate.value) and math.isnan(never.wilson.value)
  assert never.test.p_value == 1.0
  assert rankings.matrix([]) == []
  lengths = {p: {} for p in "bd"}
  assert math.isnan(
    rankings.compare(("b", "d"), rows, lengths=lengths).length.ratio.value
  )


def test_item_shares_let_two_win_rates_be_compared():
  rows = simulated()
  ids, rlaif, raters = rankings.item_shares(rows, ("RLAIF", "SFT"))
  same, rlhf, _ = rankings.item_shares(rows, ("RLHF", "SFT"))
  assert ids == same == sorted(ids) and set(raters) == {3}
  assert rlaif.mean() == pytest.approx(
    rankings.compare(("RLAIF", "SFT"), rows).win_rate.value
  )
  assert len(rlhf) == 150 and set(np.unique(rlaif * 3).round(9)) <= {0, 1, 2, 3}


def test_concordance_by_hand():
  result = rankings.concordance(ROWS)
  # Item 1: sums 4, 5, 9, S = 14, W = 12 * 14 / (9 * 24). Item 2: sums 6, 3, 3
  # in the order a, b, c, S = 6, W = 12 * 6 / (4 * 24). Item 3: one rater.
  first, second = 168 / 216, 72 / 96
  assert result.w.value == pytest.approx((first + second) / 2)
  assert (result.w.n, result.one_rater, result.test.n) == (2, 1, 3)
  assert result.by_chance == pytest.approx((1 / 3 + 1 / 2) / 2)
  statistic = 3 * 2 * first + 2 * 2 * second
  assert result.test.statistic == pytest.approx(statistic)
  assert result.test.df == 4
  assert result.test.p_value == pytest.approx(stats.chi2.sf(statistic, 4))


def test_concordance_is_high_for_raters_who_agree_and_chance_for_guesses():
  agree = rankings.concordance(simulated())
  assert 0.55 < agree.w.low < agree.w.high < 0.8
  assert agree.test.p_value < 1e-6
  generator = np.random.default_rng(0)
  guesses = [
    ranking(f"{i}", rater, generator.permutation(list("abc")).tolist())
    for i in range(300)
    for rater in "xyz"
  ]
  chance = rankings.concordance(guesses)
  assert chance.w.low < chance.by_chance < chance.w.high
  assert chance.test.p_value > 0.05


def test_concordance_without_two_raters():
  for rows, count in ((ROWS[-1:], 1), ([], 0)):
    result = rankings.concordance(rows)
    assert (result.w.n, result.one_rater) == (0, count)
    assert math.isnan(result.w.value) and math.isnan(result.test.p_value)
    assert math.isnan(result.by_chance)


@pytest.mark.parametrize(
  "rows, message",
  [
    (
      [ranking("7", "x", "abc"), ranking("7", "y", "ab")],
      r"item '7': rater 'y' did not rank \['c'\]",
    ),
    (
      [ranking("7", "x", "abc"), ranking("7", "x", "abc")],
      "item '7': rater 'x' ranked it twice",
    ),
  ],
)
def test_rankings_that_contradict_each_other(rows, message):
  for function in (rankings.concordance, rankings.matrix):
    with pytest.raises(ValueError, match=message):
      function(rows)


@pytest.mark.parametrize("order", ["a", "", "aba"])
def test_a_ranking_names_policies_once(order):
  with pytest.raises(ValueError, match="Ranking of '7' by 'x'"):
    ranking("7", "x", order)


def test_unknown_votes():
  with pytest.raises(ValueError, match="votes is 'mean'"):
    rankings.compare(("a", "b"), ROWS, votes="mean")


def test_rows_of_the_web_page_are_read(tmp_path):
  path = tmp_path / "rankings.jsonl"
  path.write_text(
    json.dumps({"id": "1", "rater": "x", "order": ["b", "a"]}) + "\n"
  )
  (row,) = jsonl.read_records(rankings.Ranking, path)
  assert row == ranking("1", "x", "ba")
