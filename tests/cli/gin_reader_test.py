# SPDX-License-Identifier: Apache-2.0
"""Values of flags, and where gin files are found."""

from __future__ import annotations

import pytest

from rlaif_jax.cli import command_line
from rlaif_jax.cli import gin_reader


@pytest.mark.parametrize(
  "text, value",
  [
    ("3", 3),
    ("-0.5", -0.5),
    ("/a/b.gin", "/a/b.gin"),
    ("a b", "a b"),
    ("'7'", "7"),
    ("7 8", "7 8"),
    ("(1, 2)", (1, 2)),
    ("(unclosed", "(unclosed"),
    ("None", None),
    ("data:-1", "data:-1"),
    ("", ""),
  ],
)
def test_flag_values(text, value):
  assert gin_reader.read_flag("X", text).value == value


def test_gin_bindings_flag():
  command = command_line.parse(["--gin_bindings=a.b = 'c=d'"])
  assert command.bindings == [("a.b", "'c=d'")]
  assert gin_reader.read_flag(*command.bindings[0]).value == "c=d"


@pytest.mark.parametrize("folder", ["gin_configs/", ""])
def test_shipped_recipes_are_found_from_anywhere(tmp_path, monkeypatch, folder):
  monkeypatch.chdir(tmp_path)
  found = gin_reader.find(f"{folder}recipes/docstring_rlaif.gin")
  expected = gin_reader.shipped_configs() / "recipes" / "docstring_rlaif.gin"
  assert found == expected
  assert list(gin_reader.read(f"{folder}recipes/docstring_rlaif.gin"))


def test_a_file_in_the_current_directory_comes_first(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "recipes").mkdir()
  (tmp_path / "recipes" / "docstring_rlaif.gin").write_text("STEPS = 1\n")
  (binding,) = gin_reader.read("recipes/docstring_rlaif.gin")
  assert (binding.name, binding.value) == ("STEPS", 1)
  with pytest.raises(command_line.UsageError, match="none.gin does not exist"):
    gin_reader.find("recipes/none.gin")
