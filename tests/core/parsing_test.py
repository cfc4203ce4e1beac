# SPDX-License-Identifier: Apache-2.0
"""Strict JSON, errors that name the file, links and printable texts."""

from __future__ import annotations

import json
import struct

import pytest

from rlaif_jax.core import parsing


@pytest.mark.parametrize(
  "data, message",
  [
    (b"{", "it is no JSON"),
    (b'{"a": NaN}', "NaN is no JSON number"),
    (b"[-Infinity]", "-Infinity is no JSON number"),
    (b"[1e999]", "too large"),
    (b"[" * 100_000, "nested too deeply"),
    (b'["\\ud800"]', "not Unicode"),
    (b'["\\uDC00x"]', "not Unicode"),
    (b'["\xed\xa0\x80"]', "not Unicode"),
    (b'["\xff"]', "not Unicode"),
    (b"1" * 5000, "limit|digits"),
  ],
)
def test_what_is_no_json(data, message):
  with pytest.raises(ValueError, match=message):
    parsing.json_value(data)


def test_json():
  value = {"a": [1, 2.5, None, "\U0001f600", "\u00e9", "\\ud800"], "b": -1e-300}
  assert parsing.json_value(json.dumps(value)) == value
  assert parsing.json_value(b"\xef\xbb\xbf[]") == []
  assert parsing.json_value("[NaN, 1]", nan_is_null=True) == [None, 1]


def test_read_json_names_the_file(tmp_path):
  path = tmp_path / "x.json"
  with pytest.raises(FileNotFoundError, match="x.json"):
    parsing.read_json(path)
  path.write_text("[1]")
  with pytest.raises(ValueError, match=r"x.json: expected an object, found \["):
    parsing.read_json(path)
  path.write_text('{"a": 1}')
  assert parsing.read_json(path) == {"a": 1}


@pytest.mark.parametrize(
  "error, message",
  [
    (KeyError("a"), "f: 'a' is missing"),
    (TypeError("no len"), "f: TypeError: no len"),
    (struct.error("short"), "f: error: short"),
    (RecursionError(), "f: it is nested too deeply"),
    (MemoryError(), "f: it needs more memory than there is"),
    (ValueError("bad"), "f: bad"),
    (AssertionError(), "f: AssertionError"),
  ],
)
def test_naming(error, message):
  with pytest.raises(ValueError) as found:
    with parsing.naming("f"):
      raise error
  assert str(found.value) == message
  assert found.value.__cause__ is error


def test_an_error_that_names_the_file_or_its_neighbour_stays():
  for message in ("/d/f: bad", "/d/g: bad"):
    with pytest.raises(OSError, match=message):
      with parsing.naming("/d/f"):
        raise OSError(message)
  with pytest.raises(NameError):  # an error of the program
    with parsing.naming("f"):
      raise NameError
  with pytest.raises(ValueError, match="f: NameError"):
    with parsing.naming("f", NameError):
      raise NameError


def test_links_stay_in_the_folder_or_in_the_cache_of_a_repository(tmp_path):
  folder = tmp_path / "models--o--n" / "snapshots" / "rev"
  blobs = tmp_path / "models--o--n" / "blobs"
  for place in (folder, blobs):
    place.mkdir(parents=True)
  (blobs / "hash").write_text("blob")
  (tmp_path / "secret").write_text("secret")
  (folder / "good").symlink_to("../../blobs/hash")
  (folder / "own").symlink_to("good")
  (folder / "bad").symlink_to("../../../secret")
  for name in ("good", "own", "missing"):
    assert parsing.inside(folder, name) == folder / name
  for name in ("bad", "../../../secret"):
    with pytest.raises(ValueError, match="bad|secret.*is a link to .*secret"):
      parsing.inside(folder, name)
  # Without the cache's folder, the same link is refused.
  plain = tmp_path / "plain"
  plain.mkdir()
  (plain / "x").symlink_to(blobs / "hash")
  with pytest.raises(ValueError, match="x is a link to .*hash, outside"):
    parsing.inside(plain, "x")
  # A link to the whole folder is what the user named.
  (tmp_path / "link").symlink_to(folder)
  assert parsing.inside(tmp_path / "link", "good").read_text() == "blob"


def test_field():
  values = {"a": 3, "b": "x", "c": None, "d": True, "e": 10**400, "f": 2}
  assert parsing.field(values, "a", int) == 3
  assert parsing.field(values, "c", int, 7) == 7
  assert parsing.field(values, "f", float) == 2
  for key, kind, message in (
    ("c", int, "c is missing"),
    ("b", int, "b is 'x'; it must be an integer"),
    ("d", int, "d is True; it must be an integer"),
    ("e", float, "it must be a finite number"),
    ("a", str, "it must be a text"),
    ("a", bool, "it must be true or false"),
  ):
    with pytest.raises(ValueError, match=message):
      parsing.field(values, key, kind)


def test_printable():
  text = "a\x1b[31m\x07\x00\u202eb\ud800\x9b1m\r"
  assert parsing.printable(text) == (
    "a\\x1b[31m\\x07\\x00\\u202eb\\ud800\\x9b1m\\r"
  )
  plain = "line\n\tübung \U0001f600 中"
  assert parsing.printable(plain) == plain


def test_a_panic_is_an_error_and_nothing_else_is():
  panic = type("PanicException", (BaseException,), {})
  with pytest.raises(ValueError, match="x.json: its parser failed: index 3"):
    with parsing.naming("x.json"), parsing.panics():
      raise panic("index 3")
  with pytest.raises(KeyboardInterrupt), parsing.panics():
    raise KeyboardInterrupt


def test_a_users_function_may_raise_anything():
  class Custom(Exception):
    pass

  def fails(x):
    raise Custom(x)

  found, error = parsing.attempt(fails, 3)
  assert found is None and type(error) is Custom
  assert parsing.attempt(lambda x: x + 1, 3) == (4, None)
