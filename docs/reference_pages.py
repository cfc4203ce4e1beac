# SPDX-License-Identifier: Apache-2.0
"""Adds the generated reference to the site: one page per package.

A hook of mkdocs (`mkdocs.yml`). The pages hold mkdocstrings directives, so
their text comes from the docstrings when the site is built.
"""

from __future__ import annotations

import ast
import pathlib

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "rlaif_jax"


def packages() -> list[str]:
  """Returns the names of the library's packages, in alphabetical order."""
  return sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))


def has_docstring(path: pathlib.Path) -> bool:
  """Returns whether a module has a docstring."""
  return ast.get_docstring(ast.parse(path.read_text("utf-8"))) is not None


def page(package: str) -> str:
  """Returns the Markdown of a package's reference page."""
  lines = [f"# rlaif_jax.{package}", ""]
  init = PACKAGE / package / "__init__.py"
  if has_docstring(init):
    lines += [ast.get_docstring(ast.parse(init.read_text("utf-8"))), ""]
  for path in sorted((PACKAGE / package).glob("*.py")):
    if path.name != "__init__.py":
      lines += [f"::: rlaif_jax.{package}.{path.stem}", ""]
  return "\n".join(lines)


def on_config(config):
  """Lists the pages in the navigation, after the public API."""
  for section in config.nav:
    if "Reference" in section:
      section["Reference"] += [
        {f"rlaif_jax.{name}": f"reference/{name}.md"} for name in packages()
      ]
  return config


def on_files(files, config):
  """Adds the pages to the site's files."""
  for name in packages():
    files.append(
      File.generated(config, f"reference/{name}.md", content=page(name))
    )
  return files
