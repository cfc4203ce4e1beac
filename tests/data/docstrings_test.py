# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.data.docstrings."""

from __future__ import annotations

import pathlib

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.data import docstrings
from rlaif_jax.data import splits

PROSE = (
  "Every record is opened once, its fields are checked against the schema "
  "of the caller, and whatever does not fit goes to the second list."
)


def write_package(root: pathlib.Path, files: dict[str, str]):
  """(module, path) of files, as `source_files` gives them."""
  result = []
  for module, text in files.items():
    path = root / (module.replace(".", "/") + ".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    result.append((module, path))
  return result


def collect(files):
  quarantine = jsonl.Quarantine()
  read = [(module, docstrings._read(path)) for module, path in files]
  rows, counts = docstrings.collect(read, quarantine)
  return rows, counts, quarantine


def function(name: str, summary: str, prose: str) -> str:
  return f'def {name}():\n  """{summary}\n\n  {prose}\n  """\n\n'


def test_summary_and_document():
  doc = f"""Sort the ``records`` of a
    :class:`Table <db.Table>`.

    {PROSE}
    See [the guide](http://x.org/guide).

    >>> sort([2, 1])
    ... 1

    Args:
      records: what to sort, and a long description of it that is no prose.
    """
  assert docstrings.split_docstring(doc) == (
    "Sort the records of a Table.",
    f"{PROSE} See the guide.",
  )


@pytest.mark.parametrize(
  "section", ["Args:", "Parameters\n----------", "Returns:", "Raises:"]
)
def test_prose_ends_where_sections_begin(section):
  doc = f"Sort all the records.\n\n{PROSE}\n\n{section}\n  leaked: word.\n"
  assert docstrings.split_docstring(doc)[1] == PROSE


@pytest.mark.parametrize(
  "doc",
  [
    f"Two words.\n\n{PROSE}",
    f"{'word ' * 21}.\n\n{PROSE}",
    "Sort all the records.",
    "Sort all the records.\n\nToo short a text to be summarised.",
    f"One line\nand another\nand a third line.\n\n{PROSE}",
    f"Sort all the records.\n\nSort all the records. {PROSE}",
    f"Copyright of the authors.\n\n{PROSE}",
    f"Sort all the records.\n\n{PROSE} \u00fc",
    "Sort all the records.\n\n" + "x = 1 + (2 ** 3) / 4; " * 9,
  ],
  ids=[
    "short summary",
    "long summary",
    "no document",
    "short document",
    "three lines",
    "repeats the summary",
    "boilerplate",
    "not ASCII",
    "code",
  ],
)
def test_other_docstrings_are_left_out(doc):
  assert docstrings.split_docstring(doc) is None


def test_no_white_space_inside():
  doc = f"Sort  the\n  records now.\n\n{PROSE}\n\n   And\tmore   of it."
  summary, document = docstrings.split_docstring(doc)
  for text in (summary, document):
    assert " ".join(text.split()) == text


def test_all_kinds_of_docstrings_are_found():
  text = '"""M."""\nclass A:\n  """C."""\n  async def f(self):\n    """F."""\n'
  assert list(docstrings.docstrings(text)) == ["M.", "C.", "F."]


def letters(i: int, salt: str) -> str:
  """Twenty words of letters only, different for each i."""
  code = "".join(chr(97 + int(d)) for d in f"{i:03d}")
  return " ".join(f"{salt}{code}{chr(97 + j)}" for j in range(20))


def test_splits_have_no_common_text(tmp_path):
  """Copies of a document, whole or in part, and of a summary are dropped."""
  files = {}
  for i in range(60):
    text = function(
      "own", f"Sort records number {letters(i, 's')[:4]}.", letters(i, "a")
    )
    # A copy of PROSE in every module, under its own summary.
    text += function("copy", f"Open the file of {letters(i, 't')[:4]}.", PROSE)
    # Twelve words of PROSE inside other words.
    part = " ".join(PROSE.split()[3:16])
    text += function(
      "part",
      f"Close the file of {letters(i, 'u')[:4]}.",
      f"{letters(i, 'b')} {part} {letters(i, 'c')}",
    )
    # One summary everywhere.
    text += function("same", "Remove the file again.", letters(i, "d"))
    files[f"package.m{i:02d}"] = text
  rows, counts, _ = collect(write_package(tmp_path, files))
  used = [name for name in splits.NAMES if rows[name]]
  assert {"train", "test"} <= set(used)
  seen: dict[str, str] = {}
  for name, part in rows.items():
    for row in part:
      assert splits.split_of(row.source) == name
      for run in {*splits.word_runs(row.context), row.response}:
        assert seen.setdefault(run, name) == name
  total = sum(counts[name] for name in splits.NAMES)
  assert total == 60 + 1 + 1
  assert counts["repeated"] == 59 + 60 + 59
  assert counts["docstrings"] == total + counts["repeated"]


def test_rows_do_not_depend_on_when_or_where(tmp_path):
  files = {
    f"p.m{i}": function(
      "f", f"Sort the {letters(i, 's')[:4]} now.", letters(i, "a")
    )
    for i in range(20)
  }
  first = collect(write_package(tmp_path / "a", files))[:2]
  again = collect(write_package(tmp_path / "b", files))[:2]
  assert first == again
  for part in first[0].values():
    assert [r.id for r in part] == sorted(r.id for r in part)


def test_files_that_do_not_parse_are_named(tmp_path):
  files = {"p.bad": "def f(:\n", "p.good": function("f", "Sort it all.", PROSE)}
  _, counts, quarantine = collect(write_package(tmp_path, files))
  assert counts["files"] == 2
  assert [row["where"] for row in quarantine.rows] == ["p.bad"]
  assert quarantine.counts() == {"SyntaxError: not parsed": 1}


def test_sources_are_those_of_the_closure():
  names = docstrings.distributions(("optax", "is-not-installed"))
  assert {"optax", "jax", "numpy", "absl-py"} <= set(names)
  assert "is-not-installed" not in names
  assert "pytest" not in names
  files = list(docstrings.source_files({"absl-py": names["absl-py"]}))
  modules = [module for module, _ in files]
  assert "absl.logging" in modules and "json.decoder" in modules
  assert "absl" in modules and "absl.__init__" not in modules
  assert len({path for _, path in files}) == len(files)
  places = [set(module.split(".")) for module in modules]
  assert not any({"tests", "test", "site-packages"} & p for p in places)
