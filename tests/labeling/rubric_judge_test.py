# SPDX-License-Identifier: Apache-2.0
"""The rubric judge: packed questions, scores, labels and rejected rows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import backends
from rlaif_jax.labeling import packed_prompts
from rlaif_jax.labeling import rubric_judge
from rlaif_jax.labeling import rubrics
from rlaif_jax.models import decoder
from tests import testing

TEMPLATE = """
name = "short"
kind = "rubric"
preamble = "Read.\\n"
sample = "T\\n{context}\\nR\\n{response}\\nQ\\n{criterion}\\n"
ending = "A=\\n"
options = ["y", "n"]
"""
CRITERIA = (
  rubrics.Criterion(text="is it short?", weight=2.0),
  rubrics.Criterion(text="rude?", weight=-1.0),
  rubrics.Criterion(text="does it say what the text is about?", hard=True),
)


def write(directory, *rows):
  path = directory / "rubrics.jsonl"
  jsonl.write_records(path, rows or [rubrics.Rubric(criteria=CRITERIA)])
  template = directory / "short.toml"
  template.write_text(TEMPLATE)
  return rubric_judge.RubricJudgeConfig(
    rubrics_file=str(path), question_template=str(template)
  )


def example(number=0, response="a summary", context="doc"):
  return records.Example(id=f"e{number}", context=context, response=response)


def pair(first, second, number=0, context="doc"):
  return records.Pair(
    id=f"p{number}", context=context, first=first, second=second
  )


def says_yes(p):
  """A backend that says yes with probability p(prompt)."""

  def log_prob(prompt, option):
    return math.log(p(prompt) if option == "y" else 1.0 - p(prompt))

  return testing.ScriptedBackend(log_prob)


def test_packed_questions_have_the_answers_of_separate_ones(tmp_path):
  """All questions in one call, each alone, and with no shared prefix."""
  config = write(
    tmp_path,
    rubrics.Rubric(criteria=CRITERIA),
    rubrics.Rubric(criteria=CRITERIA[:2], context="another text"),
  )
  tokenizer = testing.CharTokenizer(bos=True)
  functions = decoder.functions(
    testing.tiny_decoder(tokenizer.vocab_size, max_length=160)
  )
  params = testing.build(functions)
  make = lambda model: backends.FlaxBackend(  # noqa: E731
    model, params, tokenizer, name="tiny", bucket=16
  )
  rows = [
    example(0, "one"),
    example(1, "a longer response of several words"),
    example(2, "one", context="another text"),
  ]
  shared = make(functions)
  together, usage = rubric_judge.judge_responses(
    rows, shared, config, tokenizer=tokenizer
  )
  template = config.load_template()
  unshared = make(dataclasses.replace(functions, cache=None))
  separate = []
  for row in rows:
    rubric = rubrics.read(config.rubrics_file).find(row.context)
    for asked in rubric.asked:
      text = (
        f"Read.\nT\n{row.context}\nR\n{row.response}\nQ\n{asked.text}\nA=\n"
      )
      ((yes, no),), _ = unshared.score_options([text], template.options)
      separate.append(math.exp(yes) / (math.exp(yes) + math.exp(no)))
  found = [p for rating in together for p in rating.probabilities]
  np.testing.assert_allclose(found, separate, atol=1e-5)
  assert len({round(p, 4) for p in found}) > 5 and usage.requests == 8
  # In one pass, context and response are read once for all of its criteria.
  ids = [
    tokenizer.encode(f"T\n{row.context}\nR\n{row.response}\nQ\n{c.text}\nA=\n")
    for row in rows[:2]
    for c in CRITERIA
  ]
  segments = packed_prompts.make_segments(ids, bucket=1)
  assert len(segments.groups) == 2
  assert sum(segments.sizes) < 0.7 * sum(map(len, ids))


def test_all_questions_are_one_call(tmp_path):
  config = write(tmp_path)
  backend = says_yes(lambda prompt: 0.9 if "rude" in prompt else 0.6)
  ratings, usage = rubric_judge.judge_responses(
    [example(0), example(1, "x")], backend, config
  )
  assert len(backend.calls) == 1 and usage.requests == 6
  assert [r.id for r in ratings] == ["e0", "e1"]
  assert ratings[0].probabilities == pytest.approx((0.6, 0.9, 0.6))
  assert ratings[0].score == pytest.approx((2 * 0.6 + 0.1) / 3)
  assert ratings[0].labeler == "scripted"


def test_a_weight_of_zero_is_not_asked(tmp_path):
  zero = rubrics.Criterion(text="never asked?", weight=0.0, hard=True)
  backend = says_yes(lambda prompt: 0.1 if "never" in prompt else 0.7)
  found = []
  for criteria in (CRITERIA, (zero, *CRITERIA)):
    config = write(tmp_path, rubrics.Rubric(criteria=criteria))
    found.append(rubric_judge.judge_responses([example()], backend, config))
  assert found[0] == found[1]
  assert not any("never" in prompt for call in backend.calls for prompt in call)


def test_labels_are_the_sigmoid_of_the_difference(tmp_path):
  config = write(tmp_path, rubrics.Rubric(criteria=CRITERIA[:1]))
  backend = says_yes(lambda prompt: 0.9 if "good" in prompt else 0.4)
  pairs = [pair("good", "bad", 0), pair("bad", "good", 1), pair("x", "x", 2)]
  labels, usage = rubric_judge.judge_pairs(pairs, backend, config)
  expected = 1 / (1 + math.exp(-0.5 / 0.2))
  assert [label.p_first for label in labels] == pytest.approx(
    [expected, 1 - expected, 0.5]
  )
  assert usage.requests == 4  # none for the identical responses
  assert labels[0].p_orders == () and labels[2].p_first == 0.5
  soft = dataclasses.replace(config, temperature=2.0)
  (label, *_), _ = rubric_judge.judge_pairs(pairs, backend, soft)
  assert label.p_first == pytest.approx(1 / (1 + math.exp(-0.25)))


def test_a_hard_criterion_decides_a_pair(tmp_path):
  config = write(tmp_path)
  wanted = {"about": lambda prompt: 0.1 if "nice" in prompt else 0.6}

  def p(prompt):
    if "about" in prompt:
      return wanted["about"](prompt)
    return 0.95 if "nice" in prompt and "short" in prompt else 0.5

  (label,), _ = rubric_judge.judge_pairs(
    [pair("nice", "plain")], says_yes(p), config
  )
  assert label.p_first < 0.05
  wanted["about"] = lambda prompt: 0.6
  (label,), _ = rubric_judge.judge_pairs(
    [pair("nice", "plain")], says_yes(p), config
  )
  assert label.p_first > 0.8


def test_rows_without_a_judgment_are_set_aside(tmp_path):
  own = rubrics.Rubric(criteria=CRITERIA, context="doc")
  config = write(tmp_path, own)

  def log_prob(prompt, option):
    return math.nan if "broken" in prompt and "rude" in prompt else -1.0

  backend = testing.ScriptedBackend(log_prob)
  rows = [example(0), example(1, context="new"), example(2, "broken")]
  quarantine = jsonl.Quarantine()
  ratings, _ = rubric_judge.judge_responses(
    rows, backend, config, quarantine=quarantine
  )
  assert [r.id for r in ratings] == ["e0"]
  reasons = {row["row"]["id"]: row["reason"] for row in quarantine.rows}
  assert "has no rubric; add one" in reasons["e1"]
  assert "non-finite" in reasons["e2"]
  with pytest.raises(ValueError, match="Example e1: its context has no rubric"):
    rubric_judge.judge_responses(rows, backend, config)
  pairs = [pair("a", "broken", 0), pair("a", "b", 1)]
  quarantine = jsonl.Quarantine()
  labels, _ = rubric_judge.judge_pairs(
    pairs, backend, config, quarantine=quarantine
  )
  assert [label.id for label in labels] == ["p1"]
  assert quarantine.rows[0]["row"]["id"] == "p0"
  with pytest.raises(ValueError, match="Pair p0: non-finite"):
    rubric_judge.judge_pairs(pairs, backend, config)


def test_all_questions_about_a_response_read_one_context(tmp_path):
  config = dataclasses.replace(write(tmp_path), max_context_tokens=80)
  tokenizer = testing.CharTokenizer()
  backend = says_yes(lambda prompt: 0.5)
  rows = [example(0, context="0123456789" * 9), example(1, "r" * 99)]
  quarantine = jsonl.Quarantine()
  ratings, _ = rubric_judge.judge_responses(
    rows, backend, config, tokenizer=tokenizer, quarantine=quarantine
  )
  contexts = {call.split("\n")[2] for call in backend.calls[0]}
  assert len(contexts) == 1 and len(contexts.pop()) > 5
  assert max(map(len, backend.calls[0])) == 80
  assert [r.id for r in ratings] == ["e0"]
  assert ratings[0].context == rows[0].context
  assert "limit is 80" in quarantine.rows[0]["reason"]


def test_a_labeler_without_log_probs_is_read(tmp_path):
  config = dataclasses.replace(write(tmp_path), judgment="text")
  backend = testing.ScriptedBackend(
    None, lambda prompt, seed: "n" if "rude" in prompt else "y"
  )
  (rating,), _ = rubric_judge.judge_responses([example()], backend, config)
  assert rating.probabilities == (1.0, 0.0, 1.0) and rating.score == 1.0


def test_the_expected_usage_counts_each_question(tmp_path):
  config = write(tmp_path)
  tokenizer = testing.CharTokenizer()
  asked = pair("aa", "b")
  expected, most = rubric_judge.expected_usage(asked, config, tokenizer)
  _, usage = rubric_judge.judge_pairs([asked], says_yes(lambda p: 0.5), config)
  assert expected == most == usage
  nothing, _ = rubric_judge.expected_usage(pair("a", "a"), config, tokenizer)
  assert nothing == records.Usage()


def test_fingerprints_depend_on_the_rubrics_but_not_on_their_file(tmp_path):
  config = write(tmp_path)
  name = config.fingerprint("backend")
  (tmp_path / "other").mkdir()
  copied = write(tmp_path / "other")
  assert copied.fingerprint("backend") == name
  changed = write(tmp_path / "other", rubrics.Rubric(criteria=CRITERIA[:1]))
  assert changed.fingerprint("backend") != name
  for change in ({"temperature": 1.0}, {"judgment": "text"}):
    other = dataclasses.replace(config, **change)
    assert other.fingerprint("backend") != name
  assert config.fingerprint("another") != name
  wrong = dataclasses.replace(config, question_template="harmless_yes_no")
  with pytest.raises(ValueError, match="is yesno, but a rubric one"):
    wrong.load_template()
