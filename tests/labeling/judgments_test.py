# SPDX-License-Identifier: Apache-2.0
"""Judgments from log-probs and from text, and errors."""

from __future__ import annotations

import math

import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import judgments
from tests import testing

TWO = ("1", "2")
TEN = tuple(str(i) for i in range(1, 11))


@pytest.mark.parametrize(
  "answer, named",
  [
    ("1", "1"),
    (" 2\n", "2"),
    ("2.", "2"),
    ("1. It says what the function returns.", "1"),
    ("**2**", "2"),
    ("Summary 2", "2"),
    ("The better summary is Summary 2.", "2"),
    ("1, because 2 is too long", "1"),
    ("(1)", "1"),
    ("10", "10"),
    ("I give it a 10.", "10"),
    ("8/10", None),
    ("1.5", None),
    ("1 or 2", None),
    ("1 and 2 are equal", None),
    ("Summary 1 is shorter than summary 2", None),
    ("both", None),
    ("", None),
    ("12", None),
    ("21 words", None),
    ("one", None),
  ],
)
def test_an_option_is_named_or_it_is_not(answer, named):
  options = TEN if named == "10" or answer == "8/10" else TWO
  found = judgments.parse_option(answer, options)
  assert (None if found is None else options[found]) == named


def test_words_are_options_too():
  assert judgments.parse_option("Yes, it is harmful.", ("yes", "no")) == 0
  assert judgments.parse_option("I would say no", ("yes", "no")) == 1
  assert judgments.parse_option("Nobody knows", ("yes", "no")) is None
  assert judgments.parse_option("yes and no", ("yes", "no")) is None


def test_text_that_cannot_be_read_is_a_flaw():
  said = {"a": " 2", "b": "Well, hard to say", "c": "1"}
  backend = testing.ScriptedBackend(None, lambda prompt, seed: said[prompt])
  found, usage = judgments.from_text(backend, list("abc"), TWO)
  assert [v.probabilities for v in found] == [(0.0, 1.0), (), (1.0, 0.0)]
  assert found[1].error == "unparseable judgment 'Well, hard to say'"
  assert [v.error for v in (found[0], found[2])] == ["", ""]
  assert usage.requests == 3
  (_, settings), *_ = backend.completions
  assert settings["temperature"] == 0.0
  assert judgments.from_text(backend, [], TWO) == ([], records.Usage())
  backend.complete = lambda prompts, **settings: ([], records.Usage())
  with pytest.raises(ValueError, match="completed 0 of 1"):
    judgments.from_text(backend, ["a"], TWO)


def test_log_probs_become_probabilities():
  values = {"1": math.log(0.3), "2": math.log(0.1)}
  backend = testing.ScriptedBackend(
    lambda prompt, option: math.nan if prompt == "bad" else values[option]
  )
  found, _ = judgments.from_log_probs(backend, ["good", "bad"], TWO)
  assert found[0].probabilities == pytest.approx((0.75, 0.25))
  assert found[1] == judgments.Judgment((), "non-finite option log-prob")
