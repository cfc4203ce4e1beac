# SPDX-License-Identifier: Apache-2.0
"""Plain technical English: the field's terms, no riddles, no earlier names."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house import source

# Word or phrase -> what to write instead.
WORDS = {
  r"verdicts?": "judgment",
  r"flaws?": "error",
  r"mend(s|ed|ing)?": "fix",
  r"(go(es)?|going|went) on": "resume, continue, or the name of the event",
  r"lies": "is sharded, is placed, is in",
  r"anew": "again, from scratch",
  r"(to )?the same bytes": "bit-exact, identical files",
  r"so many": "the number",
  r"household": "common",
  r"all the time": "resident, always",
  r"now and then": "every N steps, sometimes",
  r"in vain": "without effect",
  r"as it were": "nothing",
  r"of one's own": "of your own",
  r"says so": "returns, raises",
  r"stands there|what (stands|is learned|learns)": "the name of the thing",
  r"who labels": "the labeler",
  r"put_row": "insert_row",
  r"rigs?|tasted": "toy world, biased",
  r"settles?|careful": "commit, budgeted",
  r"MADE_ANEW|MAY_CHANGE|SEVERAL_PROCESSES": "JobSpec",
  r"round_judges|scoring_model|training_rows|pair_batches": "the new module",
}
# CONTRIBUTING.md names some of them on purpose.
EXEMPT = {"words_test.py", "CONTRIBUTING.md"}
# Starts of docstrings that hide what the function returns or the class is.
STARTS = re.compile(r"(Of|The same of|Who|Whose|What) ")
SUFFIXES = {".py", ".md", ".gin", ".sh", ".yml"}


def prose():
  """Returns the files that are checked; prompts for models are data."""
  folders = ("rlaif_jax", "tests", "gin_configs", "launch", "docs", ".github")
  paths = [p for folder in folders for p in (source.ROOT / folder).rglob("*")]
  paths += source.ROOT.glob("*.md")
  return sorted(
    path
    for path in paths
    if path.suffix in SUFFIXES and path.name not in EXEMPT
  )


@pytest.mark.parametrize("word", WORDS)
def test_word_is_absent(word):
  pattern = re.compile(rf"\b({word})\b", re.I)
  found = [
    f"{source.short(path)}:{number}: {line.strip()}"
    for path in prose()
    for number, line in enumerate(source.text(path).splitlines(), start=1)
    if pattern.search(line)
  ]
  assert not found, f"write instead: {WORDS[word]}\n" + "\n".join(found)


def test_docstrings_start_with_a_verb_or_a_name():
  wrong = []
  for path in source.modules() + source.tests():
    for node in ast.walk(source.tree(path)):
      if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
        doc = ast.get_docstring(node) or ""
        if STARTS.match(doc):
          wrong.append(
            f"{source.short(path)}:{getattr(node, 'lineno', 1)}: "
            + doc.partition("\n")[0]
          )
  assert not wrong, "\n".join(wrong)
