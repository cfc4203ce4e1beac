# SPDX-License-Identifier: Apache-2.0
"""Examples from docstrings of installed packages.

The first line of a docstring is the summary, the following prose the document.
Source files are parsed, not imported.
"""

from __future__ import annotations

import ast
import concurrent.futures
import concurrent.futures.process
import dataclasses
import importlib.metadata
import multiprocessing
import pathlib
import re
import sys
import sysconfig
import warnings
from typing import Iterable, Iterator

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import splits

# Packages of the installation; their requirements are added.
ROOTS = (
  "jax",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "absl-py",
  "gin-config",
  "sentencepiece",
  "seqio",
  "tensorflow-datasets",
  "tensorflow-cpu",
  "pyarrow",
  "matplotlib",
)

_SECTION = re.compile(
  r"\n[ \t]*(args|arguments|parameters|params|returns?|raises|yields|"
  r"examples?|references?|notes?|see also|usage|attributes|warnings?|"
  r"methods|keyword arguments|todo)[ \t]*:?[ \t]*\n",
  re.I,
)
_MIN_SUMMARY, _MAX_SUMMARY, _MIN_DOCUMENT = 3, 20, 15
_MAX_DOCUMENT_CHARS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
  """Rows by split, and a manifest of their origin."""

  splits: dict[str, list[records.Example]]
  manifest: dict


def distributions(roots: tuple[str, ...] = ROOTS) -> dict[str, str]:
  """Returns the installed requirements of the roots: name -> version."""
  found: dict[str, str] = {}
  queue = list(roots)
  while queue:
    name = re.split(r"[\s\[<>=!~;(]", queue.pop(), maxsplit=1)[0]
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
      continue
    try:
      distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
      continue
    found[name] = distribution.version
    for requirement in distribution.requires or ():
      if "extra ==" not in requirement:
        queue.append(requirement)
  return dict(sorted(found.items()))


def source_files(names: dict[str, str]) -> Iterator[tuple[str, pathlib.Path]]:
  """Yields (module, file) of the standard library and of distributions.

  Files are sorted by module and unique. Tests and vendored copies are skipped.
  """
  library = pathlib.Path(sysconfig.get_paths()["stdlib"])
  paths = [
    (path.relative_to(library), path)
    for path in library.rglob("*.py")
    if not {"site-packages", "dist-packages"} & set(path.parts)
  ]
  for name in names:
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files or ():
      if file.suffix == ".py" and ".." not in file.parts:
        path = pathlib.Path(distribution.locate_file(file))
        paths.append((pathlib.Path(*file.parts), path))
  skip = {"test", "tests", "testing", "_vendor", "vendor", "idlelib"}
  for relative, path in sorted(set(paths), key=lambda item: item[0].parts):
    if skip & set(relative.parts) or relative.name.endswith("_test.py"):
      continue
    module = ".".join(relative.with_suffix("").parts)
    yield module.removesuffix(".__init__"), path


def docstrings(text: str) -> Iterator[str]:
  """Yields the docstrings of a module, its classes and functions."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tree = ast.parse(text)
  kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  for node in ast.walk(tree):
    if isinstance(node, kinds):
      doc = ast.get_docstring(node)
      if doc:
        yield doc


def clean(text: str) -> str:
  """Removes markup and code lines, and normalizes white space."""
  lines = [
    line
    for line in text.split("\n")
    if not re.match(r"\s*(>>>|\.\.\. |\.\. |@|[-=~^]{3,}\s*$|```)", line)
  ]
  text = "\n".join(lines)
  text = re.sub(r":[a-z:]+:`~?([^`<]*?)(?: <[^`]*>)?`", r"\1", text)
  text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
  text = re.sub(r"[`*]+", "", text)
  text = re.sub(r"https?://\S+", "", text)
  return re.sub(r"\s+", " ", text).strip()


def split_docstring(doc: str) -> tuple[str, str] | None:
  """Returns (summary, document) of a docstring, or None."""
  head, separator, rest = doc.partition("\n\n")
  if not separator or head.count("\n") > 1:
    return None
  summary = clean(head)
  rest = _SECTION.split("\n" + rest, maxsplit=1)[0]
  document = clean(rest)[:_MAX_DOCUMENT_CHARS]
  words = len(summary.split())
  if not _MIN_SUMMARY <= words <= _MAX_SUMMARY:
    return None
  if len(document.split()) < _MIN_DOCUMENT:
    return None
  if not (summary.isascii() and document.isascii()):
    return None
  letters = sum(c.isalpha() or c.isspace() for c in document)
  if letters < 0.8 * len(document) or not summary[0].isalpha():
    return None
  if re.search(r"(copyright|licen[sc]e|deprecated)", summary, re.I):
    return None
  if splits.normal(summary) in splits.normal(document):
    return None
  return summary, document


class _Seen:
  """Detects repeated summaries and runs of twelve words."""

  def __init__(self):
    self._summaries: set[str] = set()
    self._runs: set[str] = set()

  def is_new(self, summary: str, document: str) -> bool:
    """Returns whether the texts are new, and remembers them."""
    key, runs = splits.normal(summary), splits.word_runs(document)
    if key in self._summaries or not self._runs.isdisjoint(runs):
      return False
    self._summaries.add(key)
    self._runs |= runs
    return True


def _read(path: pathlib.Path) -> tuple[int, list[tuple[str, str]]] | str:
  """Returns (number of docstrings, valid ones) of a file, or an error."""
  try:
    docs = list(docstrings(path.read_text("utf-8")))
  except (SyntaxError, ValueError, OSError, RecursionError) as error:
    return f"{type(error).__name__}: not parsed"
  parts = [split_docstring(doc) for doc in docs]
  return len(docs), [part for part in parts if part is not None]


def collect(
  results: Iterable[tuple[str, tuple[int, list[tuple[str, str]]] | str]],
  quarantine: jsonl.Quarantine,
) -> tuple[dict[str, list[records.Example]], dict[str, int]]:
  """Returns rows by split and counts, from (module, result of `_read`).

  A repeated text is left out and counted, so splits do not overlap.
  """
  rows: dict[str, list[records.Example]] = {name: [] for name in splits.NAMES}
  seen = _Seen()
  counts = {"files": 0, "docstrings": 0, "no_such_form": 0, "repeated": 0}
  for module, result in results:
    counts["files"] += 1
    if isinstance(result, str):
      quarantine.add(where=module, reason=result, row="")
      continue
    counts["docstrings"] += result[0]
    counts["no_such_form"] += result[0] - len(result[1])
    for summary, document in result[1]:
      if not seen.is_new(summary, document):
        counts["repeated"] += 1
        continue
      rows[splits.split_of(module)].append(
        records.Example(
          id=records.content_id(document, summary),
          context=document,
          response=summary,
          source=module,
        )
      )
  for part in rows.values():
    part.sort(key=lambda row: row.id)
  return rows, counts | {name: len(part) for name, part in rows.items()}


def build(
  quarantine: jsonl.Quarantine, roots: tuple[str, ...] = ROOTS
) -> Corpus:
  """Reads all source files; deterministic given the package versions.

  Rows are sorted by a hash, so that a limit takes a random sample. Files that
  do not parse go to quarantine. Docstrings without summary and prose are
  counted as `no_such_form`.

  Raises:
    ValueError: if it is called from a script without a `__main__` guard.
  """
  names = distributions(roots)
  files = list(source_files(names))
  # Parsing dominates. Processes are spawned, because the caller may have
  # threads.
  context = multiprocessing.get_context("spawn")
  try:
    with concurrent.futures.ProcessPoolExecutor(mp_context=context) as pool:
      read = pool.map(_read, [path for _, path in files], chunksize=100)
      modules = (module for module, _ in files)
      rows, counts = collect(zip(modules, read, strict=True), quarantine)
  except concurrent.futures.process.BrokenProcessPool as error:
    raise ValueError(
      "the processes that parse sources ended early. Python starts them by "
      "importing your script; put its main part under "
      'if __name__ == "__main__":'
    ) from error
  digest = records.content_id(*(r.id for part in rows.values() for r in part))
  manifest = {
    "python": ".".join(map(str, sys.version_info[:3])),
    "distributions": names,
    "counts": counts,
    "rows": digest,
  }
  return Corpus(splits=rows, manifest=manifest)
