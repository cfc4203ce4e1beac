# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.text.prompts."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("name", prompts.names())
def test_parts_and_segments_join_to_the_prompt(name):
  template = prompts.load(name)
  assert template.name == name
  pairwise = template.kind == "pairwise"
  for cot in (False, True) if template.cot_ending else (False,):
    for text in TEXTS:
      texts = ("ctx", text, "other") if pairwise else ("ctx", text)
      pieces = prompts.segments(template, texts[0], texts[1:], cot=cot)
      whole = "".join(piece.text for piece in pieces)
      if pairwise:
        parts = template.pairwise_parts(cot=cot)
        assert prompts.render_pairwise(template, *texts, cot=cot) == whole
      else:
        parts = template.pointwise_parts()
        assert prompts.render_pointwise(template, *texts) == whole
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
      for left, right in zip(pieces, pieces[1:], strict=False):
        assert left.text.endswith("\n") or right.text.startswith("\n")


def test_every_task_has_its_templates():
  for task in ("summary", "helpful", "harmless"):
    for style in ("base", "detailed"):
      template = prompts.load(f"{task}_{style}")
      assert template.kind == "pairwise" and template.cot_ending
      assert template.options == ("1", "2")
  for name in ("summary_rating", "helpful_rating", "docstring_rating"):
    assert prompts.load(name).kind == "pointwise"
  flipped = [n for n in prompts.names() if prompts.load(n).polarity == "flip"]
  assert flipped == ["harmless_base", "harmless_base_2shot"]


def test_short_templates_are_short():
  for name in ("docstring_pairwise", "docstring_rating"):
    template = prompts.load(name)
    assert len(template.preamble.split()) <= 8
    constants = template.preamble + template.sample + template.ending
    assert len(constants.split()) <= 14


def test_fingerprint_is_of_the_content(tmp_path):
  one = prompts.load(write(tmp_path, PAIRWISE))
  renamed = PAIRWISE.replace('"mine"', '"other"')
  assert prompts.load(write(tmp_path, renamed)).fingerprint() == (
    one.fingerprint()
  )
  flipped = PAIRWISE + 'polarity = "flip"\n'
  assert prompts.load(write(tmp_path, flipped)).fingerprint() != (
    one.fingerprint()
  )


@pytest.mark.parametrize(
  "old, new, message",
  [
    ("ending", "endnig", "unknown keys.*endnig"),
    ('name = "mine"\n', "", "missing keys.*name"),
    ("{second}", "{third}", "placeholders"),
    ("A\\n{first}", "A {first}", "line of its own"),
    ("Pick one.\\n", "Pick one.", "preamble should end with a newline"),
    ('["1", "2"]', '["1"]', "has two"),
    ('["1", "2"]', '["1", "1"]', "differ"),
    ('"pairwise"', '"pairwize"', "kind is 'pairwize'"),
    ('ending = "Best=\\n"', 'ending = "\\n"', "ending is empty"),
    ('kind = "', 'polarity = "up"\nkind = "', "polarity is 'up'"),
    ('options = ["1", "2"]', "options = [", "Invalid value"),
  ],
)
def test_a_wrong_template_names_its_file(tmp_path, old, new, message):
  assert old in PAIRWISE
  path = write(tmp_path, PAIRWISE.replace(old, new))
  with pytest.raises(ValueError, match=message) as error:
    prompts.load(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  "exemplar, message",
  [
    ('candidates = ["x"]\nlabel = "1"', "1 has 1 candidates"),
    ('candidates = ["x", "y"]\nlabel = "3"', "label '3'"),
    ('candidates = ["x", "y"]\nlabel = "1"', "no rationale"),
    ('candidates = ["x", "y"]\nlable = "1"', "unknown keys.*lable"),
  ],
)
def test_a_wrong_exemplar_names_its_file(tmp_path, exemplar, message):
  text = PAIRWISE + 'cot_ending = "Why?\\n"\n[[exemplars]]\ncontext = "c"\n'
  path = write(tmp_path, text + exemplar + "\n")
  with pytest.raises(ValueError, match=message) as error:
    prompts.load(path)
  assert str(path) in str(error.value)


def test_an_unknown_name_suggests_the_nearest():
  with pytest.raises(ValueError, match="Did you mean 'summary_base'"):
    prompts.load("sumary_base")


def test_kinds_are_not_mixed_up():
  with pytest.raises(ValueError, match="is pairwise, but a pointwise"):
    prompts.load("summary_base").pointwise_parts()
  with pytest.raises(ValueError, match="is pointwise, but a pairwise"):
    prompts.render_pairwise(prompts.load("summary_rating"), "c", "a", "b")
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


def test_fit_says_by_how_much_the_limit_is_too_low():
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
