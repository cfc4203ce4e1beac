# SPDX-License-Identifier: Apache-2.0
"""Win rates by hand, their mirror image, and length taken out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api

from rlaif_jax.core import records
from rlaif_jax.evaluation import win_rate


def test_ties_count_half():
  result = win_rate.compare(
    ("A", "B"),
    (np.array([1.0, 2.0, 3.0, 0.0]), np.array([0.0, 2.0, 1.0, 4.0])),
    (np.full(4, 10.0), np.full(4, 10.0)),
  )
  assert result.win_rate.value == pytest.approx(2.5 / 4)
  assert (result.ties, result.win_rate.n) == (1, 4)


def simulated(effect):
  """Scores that are length plus an effect of the policy."""
  generator = np.random.default_rng(0)
  length_a = generator.uniform(20, 60, 3000)
  length_b = generator.uniform(15, 45, 3000)
  noise = generator.logistic(size=3000)
  gap = 3.0 * np.log(length_a / length_b) + effect + noise
  return (gap, np.zeros(3000)), (length_a, length_b)


def test_an_advantage_of_length_alone_goes_away():
  scores, lengths = simulated(0.0)
  result = win_rate.compare(("A", "B"), scores, lengths)
  assert result.win_rate.low > 0.55
  controlled = result.log_length_controlled
  assert controlled.low < 0.5 < controlled.high


def test_a_real_advantage_stays():
  scores, lengths = simulated(1.0)
  result = win_rate.compare(("A", "B"), scores, lengths)
  expected = 1 / (1 + np.exp(-1.0))
  controlled = result.log_length_controlled
  assert controlled.low < expected < controlled.high


def test_swapping_gives_the_mirror_image():
  scores, lengths = simulated(0.5)
  forth = win_rate.compare(("A", "B"), scores, lengths)
  back = win_rate.compare(("B", "A"), scores[::-1], lengths[::-1])
  for name in ("win_rate", "log_length_controlled"):
    a, b = getattr(forth, name), getattr(back, name)
    assert a.value == pytest.approx(1 - b.value, abs=1e-6)
    assert a.low == pytest.approx(1 - b.high, abs=1e-6)


def test_matrix_has_each_pair_once():
  scores = {n: np.arange(3.0) for n in "ABC"}
  names = [(c.a, c.b) for c in win_rate.matrix(scores, scores)]
  assert names == [("A", "B"), ("A", "C"), ("B", "C")]


def test_different_contexts_are_an_error():
  with pytest.raises(ValueError, match="same contexts"):
    win_rate.compare(
      ("A", "B"), (np.ones(3), np.ones(2)), (np.ones(3), np.ones(3))
    )


def test_a_score_that_is_missing_is_no_loss():
  with pytest.raises(ValueError, match="1 scores that are NaN"):
    win_rate.compare(
      ("A", "B"),
      (np.array([math.nan, 1.0]), np.zeros(2)),
      (np.ones(2), np.ones(2)),
    )


def outcomes(kind, n=600):
  """Outcomes of one kind that favour A and its longer texts."""
  generator = np.random.default_rng(0)
  lengths = generator.uniform(20, 60, n), generator.uniform(15, 45, n)
  p = 1 / (1 + np.exp(-0.4 - 2 * np.log(lengths[0] / lengths[1])))
  if kind == "soft":
    return p, lengths
  won = (generator.random(n) < p).astype(float)
  if kind == "ties":
    won[generator.random(n) < 0.3] = 0.5
  return won, lengths


@pytest.mark.parametrize("kind", ["hard", "ties", "soft"])
@pytest.mark.parametrize("clusters", [None, np.arange(600) // 3])
def test_the_log_ratio_mirrors_exactly_and_the_ratio_does_not(kind, clusters):
  won, (a, b) = outcomes(kind)
  forth = win_rate.length_controlled(won, (a, b), clusters=clusters)
  back = win_rate.length_controlled(1 - won, (b, a), clusters=clusters)
  assert forth.log_ratio.value == pytest.approx(
    1 - back.log_ratio.value, abs=1e-12
  )
  assert forth.log_ratio.low == pytest.approx(
    1 - back.log_ratio.high, abs=1e-12
  )
  assert abs(forth.ratio.value - (1 - back.ratio.value)) > 1e-3


def test_the_control_is_statsmodels_regression():
  won, (a, b) = outcomes("hard")
  control = win_rate.length_controlled(won, (a, b))
  for estimate, feature, at in (
    (control.ratio, a / b, 1.0),
    (control.log_ratio, np.log(a / b), 0.0),
  ):
    design = statsmodels.api.add_constant(feature)
    fit = statsmodels.api.Logit(won, design).fit(disp=0)
    low, high = fit.t_test(np.array([[1.0, at]])).conf_int()[0]
    assert estimate.value == pytest.approx(
      fit.predict(np.array([[1.0, at]]))[0], abs=1e-4
    )
    assert estimate.low == pytest.approx(1 / (1 + math.exp(-low)), abs=1e-4)
    assert estimate.high == pytest.approx(1 / (1 + math.exp(-high)), abs=1e-4)


@pytest.mark.parametrize("kind", ["hard", "ties", "soft"])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_constant_ratio_gives_the_plain_win_rate(kind, factor):
  won, (a, _) = outcomes(kind)
  control = win_rate.length_controlled(won, (factor * a, a))
  for estimate in (control.ratio, control.log_ratio):
    assert estimate.value == pytest.approx(won.mean(), abs=1e-6)
    # Equal length was seen, or it was not.
    assert (estimate.high - estimate.low < 0.1) == (factor == 1.0)


def test_the_control_does_not_depend_on_the_order_of_contexts():
  won, (a, b) = outcomes("soft")
  mixed = np.random.default_rng(1).permutation(len(won))
  one = win_rate.length_controlled(won, (a, b))
  other = win_rate.length_controlled(won[mixed], (a[mixed], b[mixed]))
  assert one.ratio.low == pytest.approx(other.ratio.low, rel=1e-9)
  assert one.log_ratio.value == pytest.approx(other.log_ratio.value, rel=1e-9)


def test_control_of_empty_texts_and_of_nothing():
  control = win_rate.length_controlled(
    np.array([1.0, 0.0, 1.0]), (np.array([0, 5, 3]), np.array([1, 5, 3]))
  )
  assert control.ratio.value == pytest.approx(2 / 3)
  nothing = win_rate.length_controlled(np.empty(0), (np.empty(0), np.empty(0)))
  assert nothing.ratio.n == 0 and math.isnan(nothing.log_ratio.value)
  with pytest.raises(ValueError, match="targets are not in"):
    win_rate.length_controlled(
      np.array([math.nan, 1.0]), (np.ones(2), np.ones(2))
    )


def judged(n=300):
  generator = np.random.default_rng(0)
  p = np.clip(generator.normal(0.6, 0.25, (n, 2)), 0, 1)
  return p, (generator.uniform(20, 60, n), generator.uniform(15, 45, n))


def test_a_win_must_hold_in_both_orders():
  p = np.array(
    [
      [0.9, 0.8],
      [0.9, 0.4],
      [0.2, 0.1],
      [0.5, 0.9],
      [0.7, 0.6],
      [0.9, math.nan],
    ]
  )
  result = win_rate.compare_judged(("A", "B"), p, (np.ones(6), np.ones(6)))
  assert (result.wins, result.ties, result.losses) == (2, 2, 1)
  assert result.unanswered == 1 and result.win_rate.n == 5
  assert result.win_rate.value == pytest.approx((2 + 2 / 2) / 5)
  assert result.bootstrap.value == result.win_rate.value
  assert result.decided.effect.value == pytest.approx(2 / 3)
  assert result.decided.n == 3 and result.decided.p_value == 1.0
  soft = np.mean([0.85, 0.65, 0.15, 0.7, 0.65])
  assert result.soft_win_rate.value == pytest.approx(soft)
  assert result.length.ratio.value == pytest.approx(0.6, abs=1e-6)
  assert result.soft_length.ratio.value == pytest.approx(soft, abs=1e-6)
  assert result.length_ratio.value == 1.0


def test_ties_narrow_the_bootstrap():
  p, lengths = judged()
  result = win_rate.compare_judged(("A", "B"), p, lengths)
  wide, narrow = result.win_rate, result.bootstrap
  assert result.ties > 50
  assert narrow.high - narrow.low < 0.95 * (wide.high - wide.low)


def test_soft_labels_that_vary_little_are_known_well():
  p, lengths = judged()
  p = 0.6 + 0.02 * (p - 0.6)
  result = win_rate.compare_judged(("A", "B"), p, lengths)
  soft = result.soft_length.log_ratio
  assert soft.value == pytest.approx(0.6, abs=0.01)
  assert soft.high - soft.low < 0.01


def test_swapping_the_policies_of_a_judge_gives_the_mirror_image():
  p, lengths = judged()
  forth = win_rate.compare_judged(("A", "B"), p, lengths)
  # B against A: the other probability, and A shown first is B shown second.
  back = win_rate.compare_judged(("B", "A"), 1 - p[:, ::-1], lengths[::-1])
  assert (forth.wins, forth.losses) == (back.losses, back.wins)
  assert forth.decided.p_value == pytest.approx(back.decided.p_value)
  for name in ("win_rate", "bootstrap", "soft_win_rate"):
    a, b = getattr(forth, name), getattr(back, name)
    assert a.value == pytest.approx(1 - b.value)
    assert a.low == pytest.approx(1 - b.high)
  for name in ("length", "soft_length"):
    a, b = getattr(forth, name).log_ratio, getattr(back, name).log_ratio
    assert a.value == pytest.approx(1 - b.value, abs=1e-9)
    assert a.low == pytest.approx(1 - b.high, abs=1e-9)


def test_a_judge_that_answered_nothing():
  for n in (3, 0):
    p = np.full((n, 2), math.nan)
    result = win_rate.compare_judged(("A", "B"), p, (np.ones(n), np.ones(n)))
    assert (result.unanswered, result.win_rate.n, result.ties) == (n, 0, 0)
    assert math.isnan(result.win_rate.value)
    assert math.isnan(result.soft_length.ratio.value)
    assert result.decided.p_value == 1.0


@pytest.mark.parametrize(
  "p, size, message",
  [
    (np.ones((2, 1)), 2, "both orders"),
    (np.ones(2), 2, "both orders"),
    (np.array([[0.1, 1.2]]), 1, "probabilities"),
    (np.ones((2, 2)), 3, "same contexts"),
  ],
)
def test_what_a_judge_cannot_have_said(p, size, message):
  with pytest.raises(ValueError, match=message):
    win_rate.compare_judged(("A", "B"), p, (np.ones(size), np.ones(size)))


def label(name, orders, first="aaaa", second="bb"):
  return records.Preference(
    id=name,
    context="c",
    first=first,
    second=second,
    p_first=0.5,
    labeler="judge",
    p_orders=orders,
  )


def test_a_matrix_from_the_labels_of_a_judge():
  labels = {
    ("A", "B"): [label("1", (0.9, 0.7)), label("2", (0.9, 0.2))],
    ("A", "C"): [label("1", (0.1, 0.3), second="bbbbbbbb")],
    ("B", "C"): [],
  }
  asked = {("A", "B"): 5, ("A", "C"): 1, ("B", "C"): 2}
  ab, ac, bc = win_rate.judged_matrix(labels, asked)
  assert (ab.a, ab.b, ab.wins, ab.ties, ab.unanswered) == ("A", "B", 1, 1, 3)
  assert ab.length_ratio.value == 2.0 and ac.length_ratio.value == 0.5
  assert (ac.losses, ac.unanswered) == (1, 0)
  assert (bc.win_rate.n, bc.unanswered) == (0, 2)
  assert win_rate.judged_matrix(labels)[0].unanswered == 0
  with pytest.raises(ValueError, match="asked is 1, and there are 2"):
    win_rate.judged_matrix(labels, {("A", "B"): 1})
  with pytest.raises(ValueError, match="1 labels were not made in both.*'7'"):
    win_rate.judged_matrix({("A", "B"): [label("7", (0.9,))]})


def test_harmless_rate():
  assert win_rate.harmless_rate([True, False, True, True]).value == 0.75


def harmless(effect, n=2000, seed=0):
  """Harm grows with length; the policy has an effect of its own."""
  generator = np.random.default_rng(seed)
  lengths = np.exp(generator.normal(4.5 + effect, 0.5, n))
  logits = 1.0 + effect - 1.5 * (np.log(lengths) - 4.5)
  return (generator.random(n) < 1 / (1 + np.exp(-logits))) * 1.0, lengths


def test_harmless_rates_at_one_length():
  """B is better at each length, and looks worse since it writes more."""
  yes_a, length_a = harmless(0.0)
  yes_b, length_b = harmless(0.8, seed=1)
  a, b = win_rate.harmless_rates(
    {"A": yes_a, "B": yes_b}, {"A": length_a, "B": length_b}
  )
  assert a.rate.value > b.rate.value
  assert a.length_controlled.high < b.length_controlled.low
  assert a.reference == b.reference == pytest.approx(math.exp(4.9), rel=0.05)
  for rate, effect in ((a, 0.0), (b, 0.8)):
    logit = 1.0 + effect - 1.5 * (math.log(rate.reference) - 4.5)
    expected = 1 / (1 + math.exp(-logit))
    assert rate.length_controlled.low < expected < rate.length_controlled.high


def test_harmless_rates_are_statsmodels_logit():
  yes, lengths = harmless(0.3, n=300)
  (rate,) = win_rate.harmless_rates({"A": yes}, {"A": lengths})
  logs = np.log(lengths)
  design = statsmodels.api.add_constant(logs)
  fit = statsmodels.api.Logit(yes, design).fit(disp=0)
  low, high = fit.t_test(np.array([[1.0, logs.mean()]])).conf_int()[0]
  found = rate.length_controlled
  assert found.low == pytest.approx(1 / (1 + math.exp(-low)), abs=1e-4)
  assert found.high == pytest.approx(1 / (1 + math.exp(-high)), abs=1e-4)
  assert rate.rate == win_rate.harmless_rate(yes)


def test_harmless_without_verdicts_is_counted_and_not_scored():
  rates = win_rate.harmless_rates(
    {
      "A": np.array([1.0, math.nan, 0.0, 1.0]),
      "B": np.array([math.nan, math.nan]),
      "C": np.array([0.9, 0.8, 0.85]),
    },
    {
      "A": np.array([30.0, 9000.0, 30.0, 30.0]),
      "B": np.array([1.0, 5000.0]),
      "C": np.full(3, 30.0),
    },
  )
  a, b, c = rates
  assert (a.rate.n, a.unanswered) == (3, 1)
  assert a.length_controlled.value == pytest.approx(2 / 3, abs=1e-6)
  assert (b.rate.n, b.unanswered) == (0, 2)
  assert math.isnan(b.length_controlled.value)
  # A pair without judgment does not move the reference.
  assert a.reference == pytest.approx(30.0)
  # P(harmless) of 0.85 throughout is known better than by three coins.
  assert c.length_controlled.value == pytest.approx(0.85, abs=1e-6)
  assert c.length_controlled.high - c.length_controlled.low < 0.2
  (none,) = win_rate.harmless_rates({"B": [math.nan]}, {"B": [3.0]})
  assert math.isnan(none.reference)


def test_the_reference_weighs_policies_alike():
  rates = win_rate.harmless_rates(
    {"A": np.ones(1), "B": np.ones(30)},
    {"A": np.full(1, 10.0), "B": np.full(30, 1000.0)},
  )
  assert [r.reference for r in rates] == pytest.approx([100.0, 100.0])


def test_verdicts_that_cannot_be():
  for values, n in (([1.0, 2.0], 2), ([1.0], 2)):
    with pytest.raises(
      ValueError, match="A: there are . judgments and 2 lengths"
    ):
      win_rate.harmless_rates({"A": np.array(values)}, {"A": np.ones(n)})
