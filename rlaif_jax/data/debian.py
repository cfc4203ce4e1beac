# SPDX-License-Identifier: Apache-2.0
"""Examples from Debian package descriptions and their synopses.

Reads the package lists of Debian mirrors (Translation-en or Packages; plain,
.gz, .bz2, .xz). There is one row per source package.
"""

from __future__ import annotations

import bz2
import collections
import gzip
import hashlib
import lzma
import pathlib
import re
from typing import Iterator, Mapping

from rlaif_jax.core import inputs
from rlaif_jax.core import records
from rlaif_jax.data import splits

_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# Names of lists on mirrors (Packages.xz) and of apt (..._Packages).
_LIST = re.compile(r"(^|_)(Packages|Translation-en)(\.\w+)?$")
_MIN_WORDS, _MAX_WORDS = 20, 250
_MIN_SYNOPSIS, _MAX_SYNOPSIS = 3, 15


def stanzas(path: pathlib.Path) -> Iterator[tuple[int, dict[str, str]]]:
  """Yields (line number, fields) of each stanza, with lines joined."""
  opener = _OPENERS.get(path.suffix, open)
  fields: dict[str, str] = {}
  begin, key = 1, ""
  inputs.note(path)
  with opener(path, "rt", encoding="utf-8") as f:
    for number, line in enumerate(f, start=1):
      line = line.rstrip("\n")
      if not line:
        if fields:
          yield begin, fields
        fields, key, begin = {}, "", number + 1
      elif line[0] in " \t":
        if key:
          fields[key] += "\n" + line[1:]
      else:
        key, _, value = line.partition(":")
        fields[key] = value.strip()
  if fields:
    yield begin, fields


def clean_description(text: str) -> str:
  """Removes list items, verbatim lines and the dots of empty lines."""
  lines = [
    "" if line.strip() == "." else line
    for line in text.split("\n")
    if not re.match(r"\s+\S|\s*[-*+o] ", line)
  ]
  return re.sub(r"\s+", " ", " ".join(lines)).strip()


def row(
  fields: Mapping[str, str], sources: Mapping[str, str]
) -> records.Example:
  """Converts a package to an Example.

  Args:
    fields: fields of its stanza.
    sources: package -> source package.

  Raises:
    ValueError: if there is no English description or source package, the
      description has not 20-250 words, or the synopsis not 3-15.
  """
  text = fields.get("Description-en") or fields.get("Description") or ""
  if "Package" not in fields or "\n" not in text:
    raise ValueError("no package name or no long description")
  synopsis, _, long = text.partition("\n")
  description = clean_description(long)
  synopsis = synopsis.strip()
  if not _MIN_WORDS <= len(description.split()) <= _MAX_WORDS:
    raise ValueError("the description has not 20-250 words")
  if not _MIN_SYNOPSIS <= len(synopsis.split()) <= _MAX_SYNOPSIS:
    raise ValueError("the synopsis has not 3-15 words")
  if fields["Package"] not in sources:
    raise ValueError("no Packages list tells the source package")
  return records.Example(
    id=records.content_id(description, synopsis),
    context=description,
    response=synopsis,
    source=sources[fields["Package"]],
  )


def package_lists(path: str) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """Returns the lists with descriptions, and those with source packages.

  The path is a directory of apt's lists, or one list. Descriptions are in
  Translation-en lists, if a mirror has them. Source packages are in Packages
  lists, of which one must be in the same directory.

  Raises:
    ValueError: if a list is missing or has another compression; names the
      command that downloads the lists.
  """
  place = pathlib.Path(path)
  folder = place if place.is_dir() else place.parent
  beside = sorted(folder.iterdir()) if path and place.exists() else []
  found = [f for f in beside if _LIST.search(f.name)]
  chosen = found if place.is_dir() else [place] if place.is_file() else []
  texts = [f for f in chosen if "Translation" in f.name] or chosen
  lists = [f for f in {*found, *chosen} if "Translation" not in f.name]
  if not texts or not lists:
    lacks = "no package list" if not texts else "no Packages list beside it"
    raise ValueError(
      f"debian_synopsis: {path!r}: {lacks}. On Debian, `mkdir -p "
      "D/lists/partial D/cache/archives/partial && apt-get -o "
      "Dir::State::lists=D/lists -o Dir::Cache=D/cache -o "
      "Acquire::Languages=en -o Acquire::GzipIndexes=false update` puts them "
      "in D/lists (..._i18n_Translation-en for the texts, ..._Packages for "
      "the source packages); name that directory as prepare.source_dir"
    )
  for file in (*texts, *lists):
    if file.suffix in (".lz4", ".zst"):
      raise ValueError(
        f"debian_synopsis: {file} is compressed with {file.suffix}; unpack it, "
        "or run apt with -o Acquire::GzipIndexes=false"
      )
  return texts, sorted(lists)


def source_packages(files: list[pathlib.Path]) -> dict[str, str]:
  """Returns binary package -> source package, from Packages lists."""
  return {
    fields["Package"]: fields.get("Source", fields["Package"]).split(" ")[0]
    for file in files
    for _, fields in stanzas(file)
    if "Package" in fields
  }


def build(path: str) -> tuple[dict[str, list[records.Example]], dict]:
  """Returns rows by split, and a manifest with hashes of the lists.

  The first valid package of each source package is kept. Repeated texts are
  left out, and held-out rows that share twelve consecutive words with another
  split; both are counted by reason.

  Raises:
    ValueError: if a list is missing; see `package_lists`.
  """
  texts, lists = package_lists(path)
  sources = source_packages(lists)
  rows: dict[str, list[records.Example]] = {name: [] for name in splits.NAMES}
  left_out: collections.Counter[str] = collections.Counter()
  seen: set[str] = set()
  for _, fields in (stanza for file in texts for stanza in stanzas(file)):
    try:
      example = row(fields, sources)
      keys = {
        f"source {example.source}",
        splits.normal(example.response),
        splits.normal(example.context),
      }
      if seen & keys:
        raise ValueError("another package of the same source or text")
    except ValueError as error:
      left_out[str(error)] += 1
      continue
    seen |= keys
    rows[splits.split_of(f"debian:{example.source}")].append(example)
  runs: set[str] = set()
  for name in splits.NAMES:
    part = rows[name]
    if name in ("validation", "test"):
      rows[name] = [r for r in part if not splits.word_runs(r.context) & runs]
      left_out["held out, but shares twelve words in a row"] += len(part) - len(
        rows[name]
      )
    runs.update(*(splits.word_runs(r.context) for r in rows[name]))
    rows[name].sort(key=lambda example: example.id)
  return rows, {
    "lists": {
      file.name: hashlib.sha256(file.read_bytes()).hexdigest()
      for file in sorted({*texts, *lists})
    },
    "counts": {name: len(part) for name, part in rows.items()},
    "left_out": dict(left_out),
  }
