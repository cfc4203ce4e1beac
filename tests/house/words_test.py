# SPDX-License-Identifier: Apache-2.0
"""Household words stay out of code, recipes and documents.

The field has a term for each of these; CONTRIBUTING.md says how to write.
"""

from __future__ import annotations

import re

import pytest

from tests.house import source

# Pattern -> what to write.
WORDS = {
  r"verdicts?": "judgment",
  r"flaws?": "error",
  r"mend(s|ed|ing)?": "fix",
  r"goes on": "resumes, continues",
  r"anew": "again, from scratch",
  r"to the same bytes": "bit-exact",
  r"so many": "a number",
  r"all the time": "resident, always",
  r"who labels": "the labeler",
  r"put_row": "insert_row",
  r"in vain": "without effect",
  r"as it were": "nothing",
  r"of one's own": "of your own",
  r"rigs?": "toy world",
  r"settles?": "commit",
  r"says so": "returns, raises",
  r"stands there": "is, contains",
}
FOLDERS = ("rlaif_jax", "gin_configs", "launch", "docs")
SUFFIXES = {".py", ".gin", ".sh", ".md"}
# These hold text for people to judge, or name the words on purpose.
EXEMPT = {"docs_test.py", "words_test.py", "CONTRIBUTING.md"}


def texts():
  """Returns the files that are checked; templates are not prose of ours."""
  files = [p for name in FOLDERS for p in (source.ROOT / name).rglob("*")]
  files += source.ROOT.glob("*.md")
  return sorted(
    p for p in files if p.suffix in SUFFIXES and p.name not in EXEMPT
  )


@pytest.mark.parametrize("pattern", WORDS)
def test_words(pattern):
  found = [
    f"{source.short(path)}:{number}: {line.strip()}"
    for path in texts()
    for number, line in enumerate(source.text(path).splitlines(), start=1)
    if re.search(rf"\b{pattern}\b", line, re.I)
  ]
  assert not found, f"write {WORDS[pattern]!r}:\n" + "\n".join(found)
