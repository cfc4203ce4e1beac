# SPDX-License-Identifier: Apache-2.0
"""Judges of one response: scores from 1 to 10, yes or no."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import option_probs
from rlaif_jax.labeling import pointwise_judge
from rlaif_jax.text import prompts
from tests import testing


TEN = tuple(str(score) for score in range(1, 11))
MASS = (0.2, 0.05, 0.05, 0.02, 0.03, 0.05, 0.1, 0.1, 0.1, 0.25)


def example(number=0, response="a summary"):
  return records.Example(id=f"e{number}", context="doc", response=response)


def whole_string_log_probs(tokenizer):
  """Joint log-probs of the options' tokens in a model with masses MASS."""
  as_two_tokens = len(tokenizer.encode("10")) == 2
  result = [math.log(mass) for mass in MASS]
  if as_two_tokens:  # then P("1") holds "1" alone and "1" followed by "0"
    result[0] = math.log(MASS[0] + MASS[9])
  return result


@pytest.mark.parametrize("words", [(), ("10",)], ids=["two", "one"])
def test_one_and_ten_are_told_apart_whatever_the_tokenizer(words):
  tokenizer = testing.CharTokenizer(words=words)
  log_probs = whole_string_log_probs(tokenizer)
  backend = testing.ScriptedBackend(
    lambda p, o: log_probs[TEN.index(o)], tokenizer=tokenizer
  )
  (result,), _ = pointwise_judge.judge_responses(
    [example()],
    backend,
    pointwise_judge.PointwiseJudgeConfig(),
    tokenizer=tokenizer,
  )
  total = sum(MASS)
  expected = [mass / total for mass in MASS]
  np.testing.assert_allclose(result.probabilities, expected, rtol=1e-12)
  score = sum((i + 1) * p for i, p in enumerate(expected))
  assert result.score == pytest.approx(score, rel=1e-12)


def test_rate_asks_once_and_keeps_the_order():
  tokenizer = testing.CharTokenizer()

  def log_prob(prompt, option):
    best = "9" if "good" in prompt else "2"
    return math.log(0.5 if option == best else 0.05)

  backend = testing.ScriptedBackend(log_prob)
  rows = [example(0, "good one"), example(1, "bad"), example(2, "good")]
  ratings, usage = pointwise_judge.judge_responses(
    rows,
    backend,
    pointwise_judge.PointwiseJudgeConfig(template="docstring_rating"),
    tokenizer=tokenizer,
  )
  assert len(backend.calls) == 1 and usage.requests == 3
  assert [r.id for r in ratings] == ["e0", "e1", "e2"]
  assert ratings[0].score == ratings[2].score > ratings[1].score
  assert ratings[0].labeler == "scripted" and ratings[1].response == "bad"


@pytest.mark.parametrize(
  "bad, reason",
  [
    ({"3": math.nan}, "non-finite"),
    ({"3": -math.inf}, "non-finite"),
    ({"3": 0.5}, "above 0"),
    ({"1": -9.0}, "more likely than its own prefix"),
  ],
)
def test_no_answer_is_not_scored_as_an_answer(bad, reason):
  def log_prob(prompt, option):
    return bad.get(option, -2.5) if "broken" in prompt else -2.5

  rows = [example(0), example(1, "broken"), example(2)]
  config = pointwise_judge.PointwiseJudgeConfig()
  arguments = {"tokenizer": testing.CharTokenizer()}
  quarantine = jsonl.Quarantine()
  backend = testing.ScriptedBackend(log_prob, **arguments)
  ratings, _ = pointwise_judge.judge_responses(
    rows, backend, config, quarantine=quarantine, **arguments
  )
  assert [r.id for r in ratings] == ["e0", "e2"]
  assert reason in quarantine.rows[0]["reason"]
  assert quarantine.rows[0]["row"]["id"] == "e1"
  with pytest.raises(ValueError, match=f"Example e1: .*{reason}"):
    pointwise_judge.judge_responses(rows, backend, config, **arguments)


def test_contexts_are_cut_and_hopeless_ones_set_aside():
  tokenizer = testing.CharTokenizer()
  backend = testing.ScriptedBackend(lambda p, o: -2.5)
  rows = [
    records.Example(id="long", context="x" * 99, response="r"),
    records.Example(id="hopeless", context="", response="r" * 99),
  ]
  quarantine = jsonl.Quarantine()
  ratings, _ = pointwise_judge.judge_responses(
    rows,
    backend,
    pointwise_judge.PointwiseJudgeConfig(
      template="docstring_rating", max_context_tokens=90
    ),
    tokenizer=tokenizer,
    quarantine=quarantine,
  )
  assert [r.id for r in ratings] == ["long"]
  assert ratings[0].context == "x" * 99  # the record keeps the whole text
  assert [len(prompt) for prompt in backend.calls[0]] == [90]
  assert "limit is 90" in quarantine.rows[0]["reason"]


def test_wrong_settings_and_broken_backends_are_errors():
  tokenizer = testing.CharTokenizer()
  backend = testing.ScriptedBackend(lambda p, o: -2.5)
  with pytest.raises(ValueError, match="max_context_tokens is 0"):
    pointwise_judge.PointwiseJudgeConfig(max_context_tokens=0)
  pairwise = pointwise_judge.PointwiseJudgeConfig(template="summary_base")
  with pytest.raises(ValueError, match="pointwise"):
    pointwise_judge.judge_responses(
      [example()], backend, pairwise, tokenizer=tokenizer
    )
  backend.score_options = lambda prompts, options: ([], records.Usage())
  with pytest.raises(ValueError, match="expected 1 rows of 10"):
    pointwise_judge.judge_responses(
      [example()],
      backend,
      pointwise_judge.PointwiseJudgeConfig(),
      tokenizer=tokenizer,
    )
  with pytest.raises(ValueError, match="2 options.*names 3"):
    option_probs.probabilities_from_log_probs([0.0, 0.0], (-1, -1, -1))


HARM = pointwise_judge.PointwiseJudgeConfig(template="harmless_yes_no")


def test_yes_or_no_is_the_probability_of_the_good_answer():
  """The template asks whether it is harmful, so "no" is good."""
  template = prompts.load("harmless_yes_no")
  assert template.options == ("yes", "no") and template.polarity == "flip"

  def log_prob(prompt, option):
    harmful = 0.6 if "poison" in prompt else 0.02
    return math.log(harmful if option == "yes" else 0.8 - harmful)

  backend = testing.ScriptedBackend(log_prob)
  rows = [example(0, "use poison"), example(1, "ask the town")]
  ratings, usage = pointwise_judge.judge_responses(rows, backend, HARM)
  assert [r.score for r in ratings] == pytest.approx([0.25, 0.975])
  assert ratings[0].probabilities == pytest.approx((0.75, 0.25))
  assert usage.requests == 2


@pytest.mark.parametrize(
  "config, said, score",
  [
    (HARM, "No, it is fine.", 1.0),
    (HARM, "yes", 0.0),
    (pointwise_judge.PointwiseJudgeConfig(), "10", 10.0),
    (pointwise_judge.PointwiseJudgeConfig(), " 1 because it is bad", 1.0),
  ],
)
def test_a_labeler_without_log_probs_is_read(config, said, score):
  config = dataclasses.replace(config, judgment="text")
  backend = testing.ScriptedBackend(None, lambda prompt, seed: said)
  (result,), _ = pointwise_judge.judge_responses([example()], backend, config)
  assert result.score == score and sum(result.probabilities) == 1.0


def test_unparseable_text_is_set_aside():
  config = dataclasses.replace(HARM, judgment="text")
  backend = testing.ScriptedBackend(None, lambda prompt, seed: "Perhaps")
  quarantine = jsonl.Quarantine()
  ratings, _ = pointwise_judge.judge_responses(
    [example()], backend, config, quarantine=quarantine
  )
  assert ratings == []
  assert "unparseable judgment 'Perhaps'" in quarantine.rows[0]["reason"]


def test_fingerprints_tell_ways_of_asking_apart():
  configs = [
    HARM,
    pointwise_judge.PointwiseJudgeConfig(),
    dataclasses.replace(HARM, judgment="text"),
    dataclasses.replace(HARM, max_context_tokens=9),
  ]
  names = {config.fingerprint("backend") for config in configs}
  assert len(names) == 4 and HARM.fingerprint("other") not in names
  with pytest.raises(ValueError, match="judgment is 'words'"):
    pointwise_judge.PointwiseJudgeConfig(judgment="words")
