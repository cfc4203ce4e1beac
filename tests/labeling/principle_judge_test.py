# SPDX-License-Identifier: Apache-2.0
"""The principle judge: orders, agreement, weights and rejected pairs."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import principle_judge
from tests import testing

FILE = """
[[principles]]
text = "Short."
weight = 3.0
[[principles]]
text = "Polite."
where = "letter"
"""


@pytest.fixture(name="config")
def fixture_config(tmp_path):
  (tmp_path / "p.toml").write_text(FILE)
  return principle_judge.PrincipleJudgeConfig(
    principles_file=str(tmp_path / "p.toml")
  )


def pair(first="one", second="two words", context="a letter", number=0):
  return records.Pair(
    id=f"p{number}", context=context, first=first, second=second
  )


def backend(p):
  """P(option 1) by (response 1, response 2, principle)."""

  def log_prob(prompt, option):
    lines = prompt.split("\n")
    shown = [
      lines[lines.index(name) + 1]
      for name in ("Response 1", "Response 2", "Principle")
    ]
    one = p(*shown)
    return math.log(one if option == "1" else 1.0 - one)

  return testing.ScriptedBackend(log_prob)


def shorter(one, two, principle):
  if principle == "Polite.":
    return 0.8  # position decides
  return 0.9 if len(one) < len(two) else 0.3


def test_each_principle_is_asked_in_both_orders(config):
  scripted = backend(shorter)
  rows = [pair(), pair("two words", "one", number=1), pair("x", "x", number=2)]
  labels, usage = principle_judge.judge_pairs(rows, scripted, config)
  assert len(scripted.calls) == 1 and usage.requests == 2 * 2 * 2
  first, swapped, same = labels
  assert first.rationales == ("Short.", "Polite.") * 2
  assert first.p_rationales == pytest.approx((0.9, 0.8, 0.7, 0.2))
  # "Short." agrees with itself: 0.8. "Polite." follows position: 0.5.
  assert first.p_first == pytest.approx((3 * 0.8 + 0.5) / 4)
  assert swapped.p_first == pytest.approx(1 - first.p_first)
  assert same.p_first == 0.5 and same.rationales == ()
  assert first.p_orders == ()


def test_orders_that_disagree_decide_nothing():
  assert principle_judge.agreed(0.9, 0.6) == pytest.approx(0.75)
  assert principle_judge.agreed(0.1, 0.4) == pytest.approx(0.25)
  assert principle_judge.agreed(0.9, 0.4) == 0.5
  assert principle_judge.agreed(0.9, 0.5) == 0.5


def test_a_principle_applies_where_its_file_says(config):
  (label,), usage = principle_judge.judge_pairs(
    [pair(context="a poem")], backend(shorter), config
  )
  assert label.rationales == ("Short.", "Short.") and usage.requests == 2
  assert label.p_first == pytest.approx(0.8)


def test_pairs_without_a_judgment_are_set_aside(config, tmp_path):
  path = tmp_path / "p.toml"
  path.write_text('[[principles]]\ntext = "Short."\nwhere = "letter"\n')
  bad = testing.ScriptedBackend(
    lambda prompt, option: math.nan if "broken" in prompt else -1.0
  )
  rows = [pair(context="a poem"), pair("broken", number=1), pair(number=2)]
  quarantine = jsonl.Quarantine()
  labels, _ = principle_judge.judge_pairs(
    rows, bad, config, quarantine=quarantine
  )
  assert [label.id for label in labels] == ["p2"]
  reasons = [row["reason"] for row in quarantine.rows]
  assert "no principle applies" in reasons[0] and "non-finite" in reasons[1]
  with pytest.raises(ValueError, match="Pair p0: no principle applies"):
    principle_judge.judge_pairs(rows, bad, config)


def test_long_contexts_are_cut_for_all_principles_alike(config):
  scripted = backend(shorter)
  short = dataclasses.replace(config, max_context_tokens=300)
  principle_judge.judge_pairs(
    [pair(context="letter " * 90)],
    scripted,
    short,
    tokenizer=testing.CharTokenizer(),
  )
  lengths = [len(prompt) for prompt in scripted.calls[0]]
  assert max(lengths) == 300 and len(set(lengths)) == 2


def test_usage_and_fingerprints(config, tmp_path):
  tokenizer = testing.CharTokenizer()
  expected, most = principle_judge.expected_usage(pair(), config, tokenizer)
  _, usage = principle_judge.judge_pairs([pair()], backend(shorter), config)
  assert expected == most == usage
  nothing, _ = principle_judge.expected_usage(pair("x", "x"), config, tokenizer)
  assert nothing == records.Usage()
  names = {config.fingerprint("b"), config.fingerprint("c")}
  for change in ({"judgment": "text"}, {"max_context_tokens": 9}):
    names.add(dataclasses.replace(config, **change).fingerprint("b"))
  (tmp_path / "p.toml").write_text('[[principles]]\ntext = "Other."\n')
  names.add(config.fingerprint("b"))
  assert len(names) == 5
