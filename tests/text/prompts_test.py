# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.text.prompts."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys

import pytest

from rlaif_jax.text import long_texts
from rlaif_jax.text import prompts
from tests import testing

PAIRWISE = """
name = "mine"
kind = "pairwise"
preamble = "Pick one.\\n"
sample = "T\\n{context}\\nA\\n{first}\\nB\\n{second}\\n"
ending = "Best=\\n"
options = ["1", "2"]
"""
# What a text may hold: nothing, newlines at its ends, a placeholder.
TEXTS = ("", "a b", "\nx\n", "{second} {context}")


def write(tmp_path, text):
  path = tmp_path / "mine.toml"
  path.write_text(text, encoding="utf-8")
  return path


def test_prompt_is_preamble_sample_ending(tmp_path):
  template = prompts.load(write(tmp_path, PAIRWISE))
  assert prompts.render_pairwise(template, "ctx", "one", "two") == (
    "Pick one.\nT\nctx\nA\none\nB\ntwo\nBest=\n"
  )
  assert prompts.render_pairwise(template, "ctx", "one", "two", swap=True) == (
    "Pick one.\nT\nctx\nA\ntwo\nB\none\nBest=\n"
  )


def test_chain_of_thought_endings_and_exemplars(tmp_path):
  text = PAIRWISE + (
    'cot_ending = "Why?\\n"\n[[exemplars]]\ncontext = "c"\n'
    'candidates = ["x", "y"]\nlabel = "2"\nrationale = "y is so."\n'
  )
  template = prompts.load(write(tmp_path, text))
  example = "=== Example ===\nT\nc\nA\nx\nB\ny\n"
  turn = "=== Now answer for this one ===\n"
  body = "T\nctx\nA\none\nB\ntwo\n"
  render = prompts.render_pairwise
  assert render(template, "ctx", "one", "two") == (
    f"Pick one.\n{example}Best=\n2\n\n{turn}{body}Best=\n"
  )
  explained = f"Pick one.\n{example}Why?\ny is so.\nBest=\n2\n\n{turn}{body}"
  assert render(template, "ctx", "one", "two", cot=True) == (
    explained + "Why?\n"
  )
  assert render(template, "ctx", "one", "two", rationale="R.") == (
    explained + "Why?\nR.\nBest=\n"
  )


RENDER = {
  "pairwise": prompts.render_pairwise,
  "pointwise": prompts.render_pointwise,
  "yesno": prompts.render_yesno,
  "rubric": prompts.render_rubric,
  "principle": prompts.render_principle,
}


def parts_of(template, *, cot):
  return template._parts(template.kind, cot)


def each_prompt(name):
  """(template, whether it asks for a rationale) in all its forms."""
  numbers = (None, 0, 1, 8) if prompts.load(name).exemplars_file else (None,)
  for number in numbers:
    template = prompts.load(name, num_exemplars=number)
    for cot in (False, True) if template.cot_ending else (False,):
      yield template, cot


@pytest.mark.parametrize("name", prompts.names())
def test_parts_and_segments_join_to_the_prompt(name):
  for (template, cot), text in itertools.product(each_prompt(name), TEXTS):
    assert template.name == name
    texts = ("ctx", text, "other", "last")[: template.num_candidates + 1]
    pieces = prompts.segments(template, texts[0], texts[1:], cot=cot)
    whole = "".join(piece.text for piece in pieces)
    if template.kind == "pairwise":
      assert prompts.render_pairwise(template, *texts, cot=cot) == whole
    else:
      assert RENDER[template.kind](template, *texts) == whole
    parts = parts_of(template, cot=cot)
    joined = parts[0]
    for value, part in zip(texts, parts[1:], strict=True):
      joined += value + part
    assert joined == whole
    assert all(part.endswith("\n") for part in parts[:-1])
    assert all(part.startswith("\n") for part in parts[1:])
    variable = [
      piece.text for piece in pieces if piece.role in ("context", "candidate")
    ]
    assert variable == list(texts)
    # A text meets its neighbours at newlines, and so does each segment.
    for left, right in itertools.pairwise(pieces):
      assert left.text.endswith("\n") or right.text.startswith("\n")


def test_kinds_are_not_mixed_up():
  with pytest.raises(ValueError, match="is pairwise, but a pointwise"):
    prompts.load("summary_base").pointwise_parts()
  with pytest.raises(ValueError, match="is pointwise, but a pairwise"):
    prompts.render_pairwise(prompts.load("summary_rating"), "c", "a", "b")
  with pytest.raises(ValueError, match="is yesno, but a pointwise"):
    prompts.render_pointwise(prompts.load("harmless_yes_no"), "c", "a")
  with pytest.raises(ValueError, match="is yesno, but a pointwise"):
    prompts.load("harmless_yes_no").pointwise_parts()
  with pytest.raises(ValueError, match="is pointwise, but a yesno"):
    prompts.render_yesno(prompts.load("summary_rating"), "c", "a")
  with pytest.raises(ValueError, match="is yesno, but a rubric"):
    prompts.render_rubric(prompts.load("harmless_yes_no"), "c", "a", "q?")
  with pytest.raises(ValueError, match="shows 2 candidates, not 1"):
    prompts.segments(prompts.load("summary_base"), "c", ("a",))
  with pytest.raises(ValueError, match="no cot_ending"):
    prompts.load("docstring_pairwise").pairwise_parts(cot=True)


def test_fit_cuts_the_end_of_the_context_and_nothing_else():
  template = prompts.load("docstring_pairwise")
  tokenizer = testing.CharTokenizer(words=("abc",))
  fixed = len(tokenizer.encode(prompts.render_pairwise(template, "", "f", "s")))
  context = "xabcabcyz"  # 5 tokens, 9 characters
  for room, kept, tokens in [(5, context, 5), (4, "xabcabcy", 4), (0, "", 0)]:
    fitted = prompts.fit(
      template,
      context,
      ("f", "s"),
      tokenizer=tokenizer,
      max_tokens=fixed + room,
    )
    assert fitted == (kept, fixed + tokens, 5 - tokens)
    prompt = prompts.render_pairwise(template, fitted.context, "f", "s")
    assert len(tokenizer.encode(prompt)) == fixed + tokens


@pytest.mark.parametrize(
  "name", [n for n in prompts.names() if n.startswith(("helpful", "harmless"))]
)
def test_the_last_turn_of_a_long_dialogue_stays(name):
  template = prompts.load(name, num_exemplars=0)
  shown = ("f", "s")[: template.num_candidates]
  tokenizer = testing.CharTokenizer()
  whole = prompts.fit(
    template, "", shown, tokenizer=tokenizer, max_tokens=10_000
  )
  fitted = prompts.fit(
    template,
    "Human: one\nHuman: two",
    shown,
    tokenizer=tokenizer,
    max_tokens=whole.tokens + 10,
  )
  assert fitted == ("Human: two", whole.tokens + 10, 11)


class Pieces:
  """Up to four letters are a token, and so is each other character.

  Counts what it has to read.
  """

  bos_id = None

  def __init__(self):
    self.calls = self.read = 0

  def encode(self, text):
    self.calls += 1
    self.read += len(text)
    return re.findall(r"[a-z]{1,4}|[^a-z]", text)


# Tokens evenly spread; dense first; dense last; one kind only.
CONTEXTS = (
  "some words of several lengths\n" * 7,
  "12 3! 45 ?" * 9 + "abcd" * 60,
  "abcd" * 60 + "12 3! 45 ?" * 9,
  "a" * 90,
)


@pytest.mark.parametrize("context", CONTEXTS)
def test_fit_keeps_as_much_as_trying_every_length(context):
  template = prompts.load("docstring_rating")
  tokenizer = Pieces()
  whole = len(tokenizer.encode(context))
  fixed = len(tokenizer.encode(prompts.render_pointwise(template, "", "r")))
  for room in range(whole + 2):
    longest = max(
      size
      for size in range(len(context) + 1)
      if len(tokenizer.encode(context[:size])) <= room
    )
    kept = len(tokenizer.encode(context[:longest]))
    fitted = prompts.fit(
      template, context, ("r",), tokenizer=tokenizer, max_tokens=fixed + room
    )
    assert fitted == (context[:longest], fixed + kept, whole - kept)


@pytest.mark.parametrize(
  "context",
  [
    "some words of several lengths\n" * 30_000,
    "abcd" * 125_000 + "?1" * 250_000,
    "?1" * 250_000 + "abcd" * 125_000,
    "?" * 2_000 + "abcd" * 250_000,
    "abcd" * 10_000 + "?" * 960_000,
  ],
)
@pytest.mark.parametrize("max_tokens", [1_000, 4_096])
def test_fit_reads_a_long_context_once(context, max_tokens):
  tokenizer = Pieces()
  template = prompts.load("summary_detailed")
  fitted = prompts.fit(
    template, context, ("a", "b"), tokenizer=tokenizer, max_tokens=max_tokens
  )
  assert fitted.tokens == max_tokens
  # Besides the whole, no more than some prefixes about as long as the result.
  assert tokenizer.calls <= 20
  assert tokenizer.read <= len(context) + 10 * len(fitted.context)
  # Without room for anything, one prefix is enough.
  fixed = fitted.tokens - len(tokenizer.encode(fitted.context))
  tokenizer = Pieces()
  fitted = prompts.fit(
    template, context, ("a", "b"), tokenizer=tokenizer, max_tokens=fixed
  )
  assert fitted.context == "" and tokenizer.calls <= 12


def test_fit_of_unevenly_spread_tokens():
  """Guesses alone would take longer: tokens are at the end, and many."""
  context = "a" * 500_000 + "?" * 500_000

  class Late(Pieces):
    def encode(self, text):
      self.calls += 1
      return range(text.count("?") ** 2)

  tokenizer = Late()
  fitted = prompts.fit(
    prompts.load("docstring_rating"),
    context,
    ("r",),
    tokenizer=tokenizer,
    max_tokens=100,
  )
  assert fitted.context == context[:500_010]
  assert tokenizer.calls <= 50


def test_fit_reports_the_needed_limit():
  template = prompts.load("docstring_rating")
  tokenizer = testing.CharTokenizer(bos=True)
  needed = len(prompts.render_pointwise(template, "", "resp")) + 1
  arguments = (template, "context", ("resp",))
  with pytest.raises(ValueError, match=f"{needed} tokens.*is {needed - 1}"):
    prompts.fit(*arguments, tokenizer=tokenizer, max_tokens=needed - 1)
  fitted = prompts.fit(*arguments, tokenizer=tokenizer, max_tokens=needed)
  assert fitted == ("", needed, 7)


@pytest.mark.parametrize(
  "text, stripped",
  [
    ("Does it.", "Does it."),
    ("Does it. . ..", "Does it."),
    ("Does it   \n", "Does it"),
    ("Does it .", "Does it."),
    ("v1.2. Really?! ", "v1.2. Really?!"),
    ("", ""),
    (" ", ""),
    ("...", "."),
  ],
)
def test_strip_trailing_symbols(text, stripped):
  assert prompts.strip_trailing_symbols(text) == stripped
  assert prompts.strip_trailing_symbols(stripped) == stripped


def test_text_does_not_import_jax():
  code = (
    "import sys; from rlaif_jax.text import prompts; "
    "prompts.load('summary_base'); assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_a_long_context_is_cut_before_it_is_encoded(monkeypatch):
  """The fitted context is that of the whole text; the count is close."""
  template = prompts.load("summary_base")
  tokenizer = testing.CharTokenizer()
  context = "one two " * 200_000
  encoded = []

  def encode(text):
    encoded.append(len(text))
    return list(text)

  monkeypatch.setattr(tokenizer, "encode", encode)
  budget = dict(tokenizer=tokenizer, max_tokens=5000)
  found = prompts.fit(template, context, ("a", "b"), **budget)
  assert max(encoded) <= long_texts.WHOLE < len(context)
  monkeypatch.setattr(long_texts, "WHOLE", 1 << 30)
  assert found == prompts.fit(template, context, ("a", "b"), **budget)


def test_a_request_keeps_its_end():
  """A dialogue ends with what is asked."""
  template = prompts.load("instruction_base", num_exemplars=0)
  assert template.polarity == "prefer" and template.cot_ending
  text = prompts.render_pairwise(template, "Sum 1 and 2.", "3", "4", swap=True)
  assert text.endswith(
    "Request:\nSum 1 and 2.\n\nResponse 1:\n4\n\nResponse 2:\n3\n\n"
    + template.ending
  )
  tokenizer = testing.CharTokenizer()
  fitted = prompts.fit(
    template,
    "early late",
    ("3", "4"),
    tokenizer=tokenizer,
    max_tokens=len(text) - len("Sum 1 and 2.") + len("late"),
  )
  assert (fitted.context, fitted.cut_tokens) == ("late", len("early "))
