# SPDX-License-Identifier: Apache-2.0
"""The project's files as syntax trees, for the house tests."""

from __future__ import annotations

import ast
import functools
import json
import pathlib
import subprocess
import sys
from typing import Any, Iterator

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "rlaif_jax"


def modules() -> list[pathlib.Path]:
  """All Python files of the package."""
  return sorted(PACKAGE.rglob("*.py"))


def tests() -> list[pathlib.Path]:
  """All Python files of the tests."""
  return sorted((ROOT / "tests").rglob("*.py"))


@functools.cache
def text(path: pathlib.Path) -> str:
  return path.read_text("utf-8")


@functools.cache
def tree(path: pathlib.Path) -> ast.Module:
  return ast.parse(text(path), filename=str(path))


def short(path: pathlib.Path) -> str:
  """The path as it is shown in messages."""
  return path.relative_to(ROOT).as_posix()


def dotted(path: pathlib.Path) -> str:
  """rlaif_jax/ops/preference.py -> rlaif_jax.ops.preference."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def functions(module: ast.Module) -> Iterator[ast.FunctionDef]:
  """All functions and methods, inner ones too."""
  for node in ast.walk(module):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      yield node


def dataclasses(module: ast.Module) -> Iterator[ast.ClassDef]:
  """Classes decorated with dataclasses.dataclass."""
  for node in ast.walk(module):
    if isinstance(node, ast.ClassDef) and any(
      "dataclasses.dataclass" in ast.unparse(d) for d in node.decorator_list
    ):
      yield node


def imports(module: ast.AST) -> Iterator[tuple[str, int]]:
  """(dotted name, line) of every import; `from a import b` gives a.b."""
  for node in ast.walk(module):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, node.lineno
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield f"{node.module}.{alias.name}", node.lineno


@functools.cache
def setup_options() -> dict[str, Any]:
  """The keyword arguments of setuptools.setup in setup.py.

  Another process reads them, since setuptools changes the one that imports it.
  """
  program = (
    "import json, runpy, setuptools; "
    "setuptools.setup = lambda **options: print(json.dumps(options)); "
    "runpy.run_path('setup.py')"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True
  )
  return json.loads(done.stdout)
