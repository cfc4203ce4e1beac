# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.labeling.pairwise_judge."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.text import prompts
from tests import testing


def pair(first, second, number=0):
  return records.Pair(
    id=f"p{number}", context="doc", first=first, second=second, source="s"
  )


def shown(prompt):
  """The two candidates in the order in which a prompt shows them."""
  lines = prompt.splitlines()
  at = next(i for i, line in enumerate(lines) if line.endswith(" 1"))
  return lines[at + 1], lines[at + 4]


def longer_is_better(prompt, option):
  """P(option) by length, with a liking for the first place and other mass."""
  one, two = shown(prompt)
  logits = {"1": len(one) + 0.7, "2": float(len(two))}
  return logits[option] - 40.0


def sigmoid(x):
  return 1.0 / (1.0 + math.exp(-x))


def one(pairs, backend, **settings):
  config = pairwise_judge.PairwiseJudgeConfig(**settings)
  labels, usage = pairwise_judge.judge_pairs(pairs, backend, config)
  return labels, usage


def test_orders_are_mapped_back_and_averaged_in_probability_space():
  backend = testing.ScriptedBackend(longer_is_better)
  (label,), usage = one([pair("abc", "ab")], backend)
  shown_first, shown_second = sigmoid(1.7), sigmoid(0.3)
  assert label.p_orders == pytest.approx((shown_first, shown_second), abs=1e-11)
  assert label.p_first == pytest.approx(
    (shown_first + shown_second) / 2, abs=1e-11
  )
  # The mean of the log-odds would be another number.
  assert label.p_first != pytest.approx(sigmoid(1.0), abs=1e-3)
  assert (label.id, label.source, label.labeler) == ("p0", "s", "scripted")
  assert len(backend.calls) == 1 and usage.requests == 2
  template = prompts.load("summary_base")
  assert backend.calls[0] == [
    prompts.render_pairwise(template, "doc", "abc", "ab"),
    prompts.render_pairwise(template, "doc", "ab", "abc"),
  ]


def test_a_labeler_that_always_says_one_gives_no_preference():
  backend = testing.ScriptedBackend(lambda p, o: -0.01 if o == "1" else -5.0)
  (label,), _ = one([pair("abc", "ab")], backend)
  assert label.p_first == 0.5
  high, low = label.p_orders
  assert high == pytest.approx(sigmoid(4.99), abs=1e-11)
  assert high + low == 1.0
  (label,), _ = one([pair("abc", "ab")], backend, orders="first")
  assert label.p_orders == (label.p_first,) == (high,)


@pytest.mark.parametrize("cot", [False, True])
def test_swapping_a_pair_gives_exactly_one_minus_p(cot):
  backend = testing.ScriptedBackend(longer_is_better, lambda p, s: "since.")
  texts = ["a", "ab", "abcd", "", "abcdefghijkl"]
  pairs = [pair(x, y) for x in texts for y in texts]
  swapped = [pair(y, x) for x in texts for y in texts]
  for_pairs, _ = one(pairs, backend, chain_of_thought=cot)
  for_swapped, _ = one(swapped, backend, chain_of_thought=cot)
  for a, b in zip(for_pairs, for_swapped, strict=True):
    assert b.p_first == 1.0 - a.p_first  # to the last bit
    assert b.p_orders == tuple(1.0 - p for p in reversed(a.p_orders))
  assert len({label.p_first for label in for_pairs}) > 10


def test_flip_polarity_is_one_minus_p():
  backend = testing.ScriptedBackend(longer_is_better)
  pairs = [pair("abc", "ab")]
  (names_better,), _ = one(pairs, backend, template="harmless_detailed")
  (names_worse,), _ = one(pairs, backend, template="harmless_base")
  assert names_better.p_first > 0.5
  assert names_worse.p_first == 1.0 - names_better.p_first
  assert names_worse.p_orders == tuple(1.0 - p for p in names_better.p_orders)


def test_identical_candidates_are_not_asked():
  backend = testing.ScriptedBackend(longer_is_better)
  labels, usage = one(
    [pair("same", "same"), pair("abc", "ab"), pair("", "")],
    backend,
    orders="first",
  )
  assert [label.p_first for label in labels][::2] == [0.5, 0.5]
  assert labels[0].p_orders == ()
  assert labels[1].p_first > 0.5 and usage.requests == 1


def test_an_empty_candidate_is_judged_like_any_other():
  backend = testing.ScriptedBackend(longer_is_better)
  (label,), _ = one([pair("", "abcdef")], backend)
  assert label.p_first < 0.1


def test_chain_of_thought_takes_two_steps_per_order():
  def rationale(prompt, seed):
    one, two = shown(prompt)
    return f"  {one} before {two}. \nPreferred Summary=\n1"

  def judgment(prompt, option):
    assert prompt.endswith(".\nPreferred Summary=\n")
    return math.log(0.8 if (option == "1") == ("x before" in prompt) else 0.2)

  backend = testing.ScriptedBackend(judgment, rationale)
  (label,), usage = one([pair("x", "yy")], backend, chain_of_thought=True)
  assert label.rationales == ("x before yy.", "yy before x.")
  assert label.p_orders == pytest.approx((0.8, 0.8), abs=1e-11)
  assert label.p_rationales == label.p_orders
  ((asked, settings),) = backend.completions
  template = prompts.load("summary_base")
  assert asked == [
    prompts.render_pairwise(template, "doc", "x", "yy", swap=swap, cot=True)
    for swap in (False, True)
  ]
  assert settings["temperature"] == 0 and settings["max_tokens"] == 512
  assert settings["stop"] == "Preferred Summary="
  assert backend.calls == [
    [asked[0] + "x before yy.\nPreferred Summary=\n"]
    + [asked[1] + "yy before x.\nPreferred Summary=\n"]
  ]
  assert usage.requests == 4


def test_self_consistency_averages_distributions():
  seeds = []

  def rationale(prompt, seed):
    if seed not in seeds:
      seeds.append(seed)
    return f"thought {seeds.index(seed)}"

  def judgment(prompt, option):
    p = (0.9, 0.6, 0.0001)[int(prompt.split("thought ")[1][0]) % 3]
    return math.log(p if option == "1" else 1 - p)

  backend = testing.ScriptedBackend(judgment, rationale)
  settings = {"chain_of_thought": True, "num_samples": 3, "temperature": 0.7}
  (label,), usage = one([pair("x", "yy")], backend, orders="first", **settings)
  assert label.p_first == pytest.approx((0.9 + 0.6 + 0.0001) / 3, abs=1e-11)
  assert label.rationales == ("thought 0", "thought 1", "thought 2")
  assert label.p_rationales == pytest.approx((0.9, 0.6, 0.0001), abs=1e-11)
  assert len(backend.calls) == 1 and len(backend.calls[0]) == 3
  assert [kwargs["top_k"] for _, kwargs in backend.completions] == [40] * 3
  first = [kwargs["seed"] for _, kwargs in backend.completions]
  one([pair("x", "yy")], backend, orders="first", seed=1, **settings)
  later = [kwargs["seed"] for _, kwargs in backend.completions[3:]]
  assert len(set(first + later)) == 6


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_a_judge_that_fails_is_not_scored(value):
  def log_prob(prompt, option):
    # Only the order that shows "bad" second fails.
    return value if shown(prompt)[1] == "bad" and option == "2" else -1.0

  pairs = [pair("a", "b", 0), pair("bad", "b", 1), pair("c", "d", 2)]
  quarantine = jsonl.Quarantine()
  labels, usage = pairwise_judge.judge_pairs(
    pairs,
    testing.ScriptedBackend(log_prob),
    pairwise_judge.PairwiseJudgeConfig(),
    quarantine=quarantine,
  )
  assert [label.id for label in labels] == ["p0", "p2"]
  assert [len(label.p_orders) for label in labels] == [2, 2]
  assert quarantine.counts() == {"non-finite option log-prob": 1}
  assert quarantine.rows[0]["row"]["first"] == "bad"
  assert usage.requests == 6  # what failed was paid for
  with pytest.raises(ValueError, match="Pair p1: non-finite"):
    one(pairs, testing.ScriptedBackend(log_prob))


def test_an_empty_rationale_is_no_answer():
  backend = testing.ScriptedBackend(longer_is_better, lambda p, seed: " \n")
  with pytest.raises(ValueError, match="empty rationale"):
    one([pair("a", "b")], backend, chain_of_thought=True)


def test_contexts_are_cut_alike_in_both_orders_and_leave_room_to_think():
  backend = testing.ScriptedBackend(longer_is_better, lambda p, s: "t" * 9)
  row = dataclasses.replace(pair("abc", "ab"), context="word " * 400)
  config = pairwise_judge.PairwiseJudgeConfig(
    chain_of_thought=True, max_context_tokens=500, max_rationale_tokens=9
  )
  (label,), _ = pairwise_judge.judge_pairs(
    [row], backend, config, tokenizer=testing.CharTokenizer()
  )
  assert [len(prompt) for prompt in backend.calls[0]] == [500, 500]
  kept, same = (
    prompt.split("Text\n")[1].split("\n\nSummary 1")[0]
    for prompt in backend.calls[0]
  )
  assert kept == same and 0 < len(kept) < len(row.context)
  assert row.context.startswith(kept)
  assert label.context == row.context
  quarantine = jsonl.Quarantine()
  labels, _ = pairwise_judge.judge_pairs(
    [row, pair("x", "x")],
    backend,
    dataclasses.replace(config, max_context_tokens=20),
    tokenizer=testing.CharTokenizer(),
    quarantine=quarantine,
  )
  assert [label.p_first for label in labels] == [0.5]
  assert "without any context" in quarantine.rows[0]["reason"]


def test_a_backend_that_drops_a_row_is_an_error():
  backend = testing.ScriptedBackend(longer_is_better, lambda p, s: "r")
  backend.complete = lambda prompts, **kwargs: ([], records.Usage())
  with pytest.raises(ValueError, match="completed 0 of 2"):
    one([pair("a", "b")], backend, chain_of_thought=True)


def test_no_pairs_ask_nothing():
  backend = testing.ScriptedBackend(longer_is_better)
  assert one([], backend, chain_of_thought=True) == ([], records.Usage())
  assert backend.calls == [] and backend.completions == []


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"orders": "second"}, "orders is 'second'"),
    ({"num_samples": 0}, "num_samples is 0"),
    ({"temperature": math.nan}, "temperature is nan"),
    ({"temperature": 0.5}, "set chain_of_thought"),
    ({"chain_of_thought": True, "num_samples": 4}, "set a temperature"),
  ],
)
def test_wrong_settings_are_errors(settings, message):
  with pytest.raises(ValueError, match=message):
    pairwise_judge.PairwiseJudgeConfig(**settings)


def test_fingerprint_counts_what_a_label_depends_on():
  sampled = pairwise_judge.PairwiseJudgeConfig(
    chain_of_thought=True, temperature=0.5, num_samples=4
  )
  greedy = pairwise_judge.PairwiseJudgeConfig()
  same = dataclasses.replace(greedy, seed=7, top_k=3, max_rationale_tokens=9)
  assert same.fingerprint("m") == greedy.fingerprint("m")
  others = [greedy.fingerprint("m"), greedy.fingerprint("n")]
  for base, change in [
    (greedy, {"template": "summary_detailed"}),
    (greedy, {"orders": "first"}),
    (greedy, {"max_context_tokens": 100}),
    (greedy, {"chain_of_thought": True}),
    (sampled, {}),
    (sampled, {"seed": 1}),
    (sampled, {"top_k": 3}),
    (sampled, {"num_samples": 2}),
    (sampled, {"temperature": 0.7}),
    (sampled, {"max_rationale_tokens": 9}),
  ]:
    others.append(dataclasses.replace(base, **change).fingerprint("m"))
  assert len(set(others)) == len(others)
