# SPDX-License-Identifier: Apache-2.0
"""Adds the generated reference to the site, and links of notebooks.

A hook of mkdocs (`mkdocs.yml`). The pages hold mkdocstrings directives, so
their text comes from the docstrings when the site is built. The public API is
in `reference/index.md`, at the line `PUBLIC_API`.
"""

from __future__ import annotations

import ast
import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "rlaif_jax"
PUBLIC_API = "<!-- public API -->"


def packages() -> list[str]:
  """Returns the names of the library's packages, in alphabetical order."""
  return sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))


def public_names() -> dict[str, str]:
  """Returns the public names with the modules that define them."""
  for node in ast.parse((PACKAGE / "__init__.py").read_text("utf-8")).body:
    if isinstance(node, ast.Assign) and node.targets[0].id == "_MODULES":
      return ast.literal_eval(node.value)
  raise ValueError("rlaif_jax/__init__.py has no _MODULES")


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


def on_page_markdown(markdown, page, config, files):
  """Writes the public API where the reference has its mark."""
  names = public_names().items()
  api = [f"::: {module}.{name}" for name, module in names]
  return markdown.replace(PUBLIC_API, "\n\n".join(api))


def on_page_content(html, page, config, files):
  """Points links of notebooks at pages; mkdocs does so for Markdown alone."""
  if not page.file.src_uri.endswith(".ipynb"):
    return html

  def to_page(match):
    name = match[1].removesuffix("index")
    return f'href="../{name}/"'.replace("//", "/")

  return re.sub(r'href="(\.\./[\w/]+)\.md"', to_page, html)


def on_files(files, config):
  """Adds the pages to the site's files."""
  for name in packages():
    files.append(
      File.generated(config, f"reference/{name}.md", content=page(name))
    )
  return files
