# SPDX-License-Identifier: Apache-2.0
"""Debian package descriptions with their human-written synopses.

Reads the package lists that every Debian mirror publishes (Translation-en or
Packages; plain, .gz, .bz2, .xz). One row per source package.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import pathlib
import re
from typing import Iterator

from rlaif_jax.core import records

_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_MIN_WORDS, _MAX_WORDS = 20, 250
_MIN_SYNOPSIS, _MAX_SYNOPSIS = 3, 15


def stanzas(path: pathlib.Path) -> Iterator[tuple[int, dict[str, str]]]:
  """(line number, fields) of each paragraph; continued lines are joined."""
  opener = _OPENERS.get(path.suffix, open)
  fields: dict[str, str] = {}
  begin, key = 1, ""
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
  """Lists and verbatim lines out; dots that stand for empty lines go."""
  lines = [
    "" if line.strip() == "." else line
    for line in text.split("\n")
    if not re.match(r"\s+\S|\s*[-*+o] ", line)
  ]
  return re.sub(r"\s+", " ", " ".join(lines)).strip()


def row(fields: dict[str, str]) -> records.Example:
  """One package as an Example.

  Raises:
    ValueError: no English description, or lengths outside 20-250 words for
      the description and 3-15 for the synopsis.
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
  return records.Example(
    id=records.content_id(description, synopsis),
    context=description,
    response=synopsis,
    source=source_package(fields),
  )


def source_package(fields: dict[str, str]) -> str:
  """The source package; a Translation file does not name it, so there it is
  the package's name without what binary packages usually add."""
  if "Source" in fields:
    return fields["Source"].split(" ")[0]
  name = fields["Package"]
  name = re.sub(
    r"-(dev|doc|data|common|dbg|bin|utils|tools|perl|dkms|server|client|"
    r"gtk\d*|qt\d*|gui|cli|core|plugins?|extra|examples|l10n-\w+|\w\w)$",
    "",
    name,
  )
  return re.sub(r"(\d[\d.]*|-\d[\d.]*\w?)+$", "", name) or name


def build(path: str) -> tuple[dict[str, list[records.Example]], dict]:
  """Rows by split, and the manifest with the list's hash.

  Raises:
    ValueError: no such file; says how to get one.
  """
  file = pathlib.Path(path)
  if not path or not file.is_file():
    raise ValueError(
      f"debian_synopsis: {path!r} is no package list. On Debian, `apt-get -o "
      "Dir::State::lists=D/lists -o Dir::Cache=D/cache -o "
      "Acquire::Languages=en update` puts one in D/lists "
      "(..._main_i18n_Translation-en); name that file as prepare.source_dir"
    )
  splits: dict[str, list[records.Example]] = {
    name: [] for name in ("train", "labeler", "preference", "rl")
  }
  splits.update(validation=[], test=[])
  left_out: dict[str, int] = {}
  seen: set[str] = set()
  for _, fields in stanzas(file):
    try:
      example = row(fields)
      if example.source in seen or example.response.lower() in seen:
        raise ValueError("another package of the same source or synopsis")
    except ValueError as error:
      left_out[str(error)] = left_out.get(str(error), 0) + 1
      continue
    seen.update((example.source, example.response.lower()))
    splits[split_of(example.source)].append(example)
  for rows in splits.values():
    rows.sort(key=lambda example: example.id)
  digest = hashlib.sha256(file.read_bytes()).hexdigest()
  counts = {name: len(rows) for name, rows in splits.items()}
  return splits, {
    "file": file.name,
    "sha256": digest,
    "counts": counts,
    "left_out": left_out,
  }


def split_of(source: str) -> str:
  """The split of a source package, by hash."""
  place = int(records.content_id("debian", source)[:8], 16) % 100
  for name, share in (
    ("train", 40),
    ("labeler", 15),
    ("preference", 15),
    ("rl", 15),
    ("validation", 5),
  ):
    if place < share:
      return name
    place -= share
  return "test"
