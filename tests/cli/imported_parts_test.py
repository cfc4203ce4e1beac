# SPDX-License-Identifier: Apache-2.0
"""Names of imported parts, and the references that values come from."""

from __future__ import annotations

import functools
import sys

import pytest

from rlaif_jax.cli import command_line
from rlaif_jax.cli import configuration
from rlaif_jax.cli import gin_reader
from rlaif_jax.cli import gin_writer
from rlaif_jax.cli import imported_parts
from rlaif_jax.cli import resolution

CODE = """
import dataclasses
import os.path

def scale(x, *, by=2.0):
  return x * by

def make(**kwargs):
  return Thing(kwargs)

class Thing:
  def __init__(self, kwargs):
    self.kwargs = kwargs

def number(n):
  return n
"""


def job(*, output_dir: str, one: object = None, many: tuple = ()):
  del output_dir, one, many


JOBS = {"job": job}


@pytest.fixture
def module(tmp_path, monkeypatch):
  (tmp_path / "own_part.py").write_text(CODE)
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  sys.modules.pop("own_part", None)


def resolve(text):
  """Returns the arguments of a gin text, and it as it is written."""
  with open("x.gin", "w", encoding="utf-8") as file:
    file.write(text)
  parts = imported_parts.ImportedParts()
  bindings = parts.with_full_names(gin_reader.read("x.gin", parts=parts), JOBS)
  arguments = resolution.resolve("job", bindings, JOBS, parts)
  return arguments, gin_writer.render("job", job, arguments, parts)


@pytest.mark.parametrize(
  "statement, name",
  [
    ("import own_part", "own_part.scale"),
    ("import own_part", "scale"),
    ("import own_part as o", "o.scale"),
    ("from __gin__ import dynamic_registration\nimport own_part", "scale"),
  ],
)
def test_a_function_and_its_bound_parameters(module, statement, name):
  text = f"{statement}\njob.one = @a/{name}\na/{name}.by = 3.0\n"
  arguments, written = resolve(text)
  assert arguments["one"](2.0) == 6.0
  assert isinstance(arguments["one"], functools.partial)
  again, same = resolve(written)
  assert again["one"](2.0) == 6.0 and same == written


def test_scopes_lists_macros_and_any_keyword(module):
  text = (
    "import own_part\njob.many = (@a/make(), %M, @number())\nM = @make()\n"
    "a/make.color = 'red'\nnumber.n = 3\n"
  )
  arguments, written = resolve(text)
  first, second, third = arguments["many"]
  assert (first.kwargs, second.kwargs, third) == ({"color": "red"}, {}, 3)
  assert "job.many = (@many_0/own_part.make(), @own_part.make(), 3)" in written
  assert resolve(written)[1] == written


def test_a_number_that_a_function_returns_is_written_as_a_number(module):
  """Equal small integers are one object, which is not the function's alone."""
  text = "import own_part\njob.one = 3\njob.many = (@number(),)\nnumber.n = 3"
  assert "job.one = 3\njob.many = (3,)\n" in resolve(text)[1]


def test_a_missing_argument_of_a_call_is_told(module):
  with pytest.raises(ValueError, match="own_part.number.n is required"):
    resolve("import own_part\njob.one = @number()")
  resolve("import own_part\njob.one = @number")  # The job passes it.


def test_what_a_module_imports_is_not_its_own(module):
  with pytest.raises(configuration.ConfigurationError, match="'join'"):
    resolve("import own_part\njob.one = @join")
  arguments, _ = resolve("import own_part\njob.one = @own_part.os.path.join")
  assert arguments["one"]("a", "b") == "a/b"


def test_files_refuse_imports_unless_parts_are_given(module):
  with open("x.gin", "w", encoding="utf-8") as file:
    file.write("import own_part\n")
  with pytest.raises(command_line.UsageError, match="x.gin:1: --safe_gin"):
    list(gin_reader.read("x.gin"))


def test_an_include_does_not_revert_a_macro(module):
  (module / "base.gin").write_text("N = 1\njob.one = %N\n")
  (module / "x.gin").write_text("N = 2\ninclude 'base.gin'\n")
  message = "base.gin:1: the include reverts the macro N, which x.gin:1"
  with pytest.raises(command_line.UsageError, match=message):
    list(gin_reader.read("x.gin"))
  (module / "x.gin").write_text("include 'base.gin'\nN = 2\n")
  assert resolution.resolve("job", list(gin_reader.read("x.gin")), JOBS) == {
    "one": 2
  }
