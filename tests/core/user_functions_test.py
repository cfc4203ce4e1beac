# SPDX-License-Identifier: Apache-2.0
"""Import paths, and identities that follow a function's file and arguments."""

from __future__ import annotations

import functools
import importlib
import json

import pytest

from rlaif_jax.core import user_functions


class Part:
  def __call__(self):
    pass


def test_identity(tmp_path, monkeypatch):
  file = tmp_path / "identity_part.py"
  file.write_text("def f(x, y=0):\n  return x\n")
  monkeypatch.syspath_prepend(str(tmp_path))
  f = importlib.import_module("identity_part").f
  plain = user_functions.identity_of(f)
  assert plain.startswith("identity_part.f@")
  bound = [functools.partial(f, y=y) for y in (1, 1, 2)]
  names = [user_functions.identity_of(b) for b in bound]
  assert names[0] == names[1] and len({plain, *names}) == 3
  file.write_text("def f(x, y=0):\n  return 2 * x\n")
  assert user_functions.identity_of(f) != plain


def test_names_of_objects_and_functions_without_a_file():
  assert user_functions.name_of(Part()) == f"{__name__}.Part"
  assert user_functions.identity_of(Part()).startswith(f"{__name__}.Part@")
  space = {"__name__": "nowhere"}
  exec("def f(): pass", space)
  with pytest.raises(ValueError, match="nowhere.f has no source file"):
    user_functions.identity_of(space["f"])


@pytest.mark.parametrize("path", ["json:dumps", "json.dumps"])
def test_both_spellings_name_the_object(path):
  assert user_functions.load(path, "the function") is json.dumps


@pytest.mark.parametrize(
  "path, words",
  [
    ("dumps", "must be an import path"),
    ("no_such_module:f", "import of no_such_module fails.*PYTHONPATH"),
    ("json:dumbs", "json has no 'dumbs'; did you mean json:dumps"),
    ("json:", "must be an import path|import of"),
  ],
)
def test_a_wrong_path_says_what_is_wrong(path, words):
  with pytest.raises(ValueError, match=f"the function is '{path}'.*"):
    user_functions.load(path, "the function")
  with pytest.raises(ValueError, match=words):
    user_functions.load(path, "the function")
