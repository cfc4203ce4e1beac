# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.data.debian, on package lists that we wrote."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pytest

from rlaif_jax.core import records
from rlaif_jax.data import debian
from rlaif_jax.data import pipeline
from rlaif_jax.data import splits

LONG = (
  " This program reads the diary of a lighthouse and draws one chart of the\n"
  " storms that its keepers saw, year after year, with names."
)


def stanza(package, synopsis="charts of storms by year", long=LONG):
  return (
    f"Package: {package}\nDescription-md5: 0123456789abcdef\n"
    f"Description-en: {synopsis}\n{long}\n\n"
  )


def long_text(i: int) -> str:
  """Twenty-five words, different for each i."""
  return " " + " ".join(f"word{i}no{j}" for j in range(25))


def write_lists(root, texts, sources, suffix="", opener=open):
  """A Translation-en and a Packages list, named as apt names them."""
  root.mkdir(exist_ok=True)
  with opener(root / f"deb_main_i18n_Translation-en{suffix}", "wt") as f:
    f.write(texts)
  with opener(root / f"deb_main_binary-amd64_Packages{suffix}", "wt") as f:
    for package, source in sources.items():
      f.write(f"Package: {package}\n")
      f.write(f"Source: {source}\n\n" if source else "Version: 1\n\n")
  return root


def all_rows(built):
  return [row for part in built[0].values() for row in part]


@pytest.mark.parametrize(
  "suffix, opener",
  [("", open), (".gz", gzip.open), (".xz", lzma.open), (".bz2", bz2.open)],
)
def test_one_package(tmp_path, suffix, opener):
  root = write_lists(
    tmp_path / "lists", stanza("storms-dev"), {"storms-dev": "storms (1.2)"},
    suffix, opener,
  )  # fmt: skip
  expected = records.Example(
    id="",
    context=" ".join(LONG.split()),
    response="charts of storms by year",
    source="storms",
  )
  for place in (root, root / f"deb_main_i18n_Translation-en{suffix}"):
    (row,) = all_rows(debian.build(str(place)))
    assert records.to_row(row) == {**records.to_row(expected), "id": row.id}


def test_description_without_lists_and_verbatim_lines():
  text = "One line\n.\nand two:\n - a point\n  * another\n   verbatim\nthe end."
  assert debian.clean_description(text) == "One line and two: the end."


@pytest.mark.parametrize(
  "synopsis, long, reason",
  [
    ("two words", LONG, "synopsis has not 3-15"),
    ("word " * 16, LONG, "synopsis has not 3-15"),
    ("charts of storms", " Too short.", "description has not 20-250"),
    ("charts of storms", " " + "word " * 251, "description has not 20-250"),
  ],
)
def test_lengths(tmp_path, synopsis, long, reason):
  texts = stanza("a", synopsis, long) + stanza("b")
  root = write_lists(tmp_path / "lists", texts, {"a": "", "b": ""})
  rows, manifest = debian.build(str(root))
  assert len(all_rows((rows, manifest))) == 1
  ((found, count),) = [i for i in manifest["left_out"].items() if i[1]]
  assert reason in found and count == 1


def test_one_row_per_source_and_text(tmp_path):
  texts = (
    stanza("a-data", "data of the program a", long_text(1))
    + stanza("a-bin", "the program a itself", long_text(2))
    + stanza("b", "Data of the program, a!", long_text(3))
    + stanza("c", "something else again", long_text(1).upper())
    + stanza("unknown", "of another machine", long_text(4))
  )
  sources = {"a-data": "a", "a-bin": "a", "b": "", "c": ""}
  root = write_lists(tmp_path / "lists", texts, sources)
  rows, manifest = debian.build(str(root))
  assert [row.source for row in all_rows((rows, manifest))] == ["a"]
  assert {k: v for k, v in manifest["left_out"].items() if v} == {
    "another package of the same source or text": 3,
    "no Packages list tells the source package": 1,
  }


def test_held_out_splits_share_no_run_of_words(tmp_path):
  shared = " ".join(f"shared{j}" for j in range(12))
  names = [f"source{i}" for i in range(60)]
  texts = "".join(
    stanza(name, f"the program of {name}", f"{long_text(i)} {shared}")
    for i, name in enumerate(names)
  )
  root = write_lists(tmp_path / "lists", texts, dict.fromkeys(names, ""))
  rows, manifest = debian.build(str(root))
  assert manifest["counts"]["train"] and not manifest["counts"]["test"]
  held = [n for n in names if splits.split_of(f"debian:{n}") in (
    "validation", "test")]  # fmt: skip
  assert held
  found = "held out, but shares twelve words in a row"
  assert manifest["left_out"][found] == len(held)
  for name, part in rows.items():
    for row in part:
      assert splits.split_of(f"debian:{row.source}") == name


def test_missing_lists_say_how_to_get_them(tmp_path):
  for path in ("", str(tmp_path), str(tmp_path / "none")):
    with pytest.raises(ValueError, match="no package list.*apt-get -o"):
      debian.build(path)
  only = tmp_path / "Translation-en"
  only.write_text(stanza("a"))
  with pytest.raises(ValueError, match="no Packages list beside it"):
    debian.build(str(only))


def test_other_compression_is_named(tmp_path):
  for name in ("Translation-en.lz4", "Packages.lz4"):
    (tmp_path / name).write_bytes(b"\x04")
  with pytest.raises(ValueError, match="unpack it"):
    debian.build(str(tmp_path))


def test_through_the_pipeline(tmp_path):
  names = [f"source{i}" for i in range(60)]
  texts = "".join(
    stanza(name, f"the program of {name}", long_text(i))
    for i, name in enumerate(names)
  )
  root = write_lists(tmp_path / "lists", texts, dict.fromkeys(names, ""))
  rows = [
    row
    for split in ("train", "test")
    for row in pipeline.load_examples(
      "debian_synopsis",
      split,
      cache_dir=str(tmp_path / "cache"),
      data_dir=str(root),
    )
  ]
  assert {r.source for r in rows} < set(names)
