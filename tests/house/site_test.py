# SPDX-License-Identifier: Apache-2.0
"""The documentation site: links, tables, and names that must exist.

These checks need no generator; tests/e2e/site_test.py builds the site.
"""

from __future__ import annotations

import ast
import csv
import functools
import json
import re

import pytest
import yaml

from tests.house import source

DOCS = source.ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = sorted([*source.ROOT.glob("*.md"), *PAGES])
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
EXPERIMENTS = sorted(
  path
  for path in (DOCS / "experiments").glob("*.md")
  if path.name != "index.md"
)
MAX_TABLE_COLUMNS = 6
# Pages that the site generates; see docs/reference_pages.py.
GENERATED = {
  DOCS / "reference" / f"{path.parent.name}.md"
  for path in source.PACKAGE.glob("*/__init__.py")
}


def prose(path) -> str:
  """Returns the text of a document or notebook without its code blocks."""
  if path.suffix == ".ipynb":
    cells = json.loads(source.text(path))["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] != "code"]
    return "\n\n".join(texts)
  return re.sub(r"```.*?```", "", source.text(path), flags=re.S)


def anchors(path) -> set[str]:
  """Returns the anchors of a page's headings, as the site makes them."""
  heads = re.findall(r"^#+ (.*)$", prose(path), re.M)
  plain = [re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads]
  return {re.sub(r"[-\s]+", "-", head) for head in plain}


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=source.short)
def test_relative_links_resolve(path):
  wrong = []
  for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
    if re.match(r"\w+:", link):
      continue
    name, _, anchor = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    if not target.exists() and target not in GENERATED:
      wrong.append(link)
    elif anchor and target.suffix == ".md" and target not in GENERATED:
      if anchor not in anchors(target):
        wrong.append(link)
  assert not wrong, f"{source.short(path)} links to nothing: {wrong}"


def flat(nav) -> list[str]:
  """Returns the files of a navigation tree."""
  if isinstance(nav, str):
    return [nav]
  parts = nav.values() if isinstance(nav, dict) else nav
  return [name for part in parts for name in flat(part)]


def test_every_page_is_in_the_navigation():
  config = yaml.safe_load(source.text(source.ROOT / "mkdocs.yml"))
  pages = [p.relative_to(DOCS).as_posix() for p in [*PAGES, *NOTEBOOKS]]
  assert sorted(flat(config["nav"])) == sorted(pages)


def test_every_package_is_in_the_reference():
  listed = re.findall(
    r"\((\w+)\.md\)", source.text(DOCS / "reference/index.md")
  )
  assert sorted(listed) == sorted(path.stem for path in GENERATED)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=source.short)
def test_experiments_state_finding_table_and_command(path):
  text = source.text(path)
  assert re.search(r"\A# .+\n\n\*\*Finding\.\*\* ", text)
  heads = re.findall(r"^## (.*)$", text, re.M)
  assert path.name == "small_world.md" or "Command" in heads
  for row in re.findall(r"^\|.*\|$", text, re.M):
    cells = re.split(r"(?<!\\)\|", row)[1:-1]
    assert len(cells) <= MAX_TABLE_COLUMNS, row


def test_tables_of_experiments_are_complete_and_linked():
  text = "".join(source.text(path) for path in EXPERIMENTS)
  for path in sorted((DOCS / "experiments/data").iterdir()):
    assert f"(data/{path.name})" in text, f"no page links to {path.name}"
    with path.open(newline="") as lines:
      widths = {len(row) for row in csv.reader(lines)}
    assert len(widths) == 1, f"{path.name} has rows of {sorted(widths)} cells"


def test_paths_of_documents_exist():
  files = [*source.modules(), *source.tests()]
  files += sorted((source.ROOT / "gin_configs").rglob("*.gin"))
  wrong = []
  for path in files:
    for name in re.findall(
      r"(?<![\w./])docs/[\w/]+\.(?:md|ipynb)\b", source.text(path)
    ):
      if not (source.ROOT / name).exists() and name != "docs/gguf.md":
        wrong.append(f"{source.short(path)}: {name}")
  assert not wrong, "\n".join(wrong)


def attributes(node) -> set[str]:
  """Returns the fields and methods of a class, and what methods assign."""
  found = {
    getattr(getattr(n, "target", n), "id", getattr(n, "name", ""))
    for n in node.body
  }
  for inner in ast.walk(node):
    if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
      if isinstance(inner.value, ast.Name) and inner.value.id == "self":
        found.add(inner.attr)
  return found


@functools.cache
def members() -> dict[str, dict[str, set[str]]]:
  """Maps modules to their top-level names, and those to their attributes."""
  found = {}
  for path in source.modules():
    names = found.setdefault(source.dotted(path), {})
    for node in source.tree(path).body:
      if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        names[node.name] = attributes(node)
      elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        for target in ast.walk(node):
          if isinstance(target, ast.Name):
            names.setdefault(target.id, set())
      elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
          names.setdefault(alias.asname or alias.name, set())
  return found


@functools.cache
def classes() -> dict[str, set[str]]:
  """Maps the names of classes to their attributes, of all that share one."""
  found = {}
  for names in members().values():
    for name, inside in names.items():
      if re.match(r"[A-Z]\w*[a-z]", name):
        found.setdefault(name, set()).update(inside)
  return found


def exists(dotted: str) -> bool:
  """Returns whether a module, or a name in one, exists."""
  parts = dotted.split(".")
  for k in range(len(parts), 0, -1):
    module = ".".join(parts[:k])
    if module in members():
      rest = parts[k:]
      if not rest:
        return True
      inside = members()[module]
      return rest[0] in inside and (
        len(rest) == 1 or rest[1] in inside[rest[0]]
      )
  return False


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=source.short)
def test_names_in_documents_exist(path):
  if path.name == "CHANGELOG.md":
    pytest.skip("names of earlier versions are allowed there")
  packages = {name.stem for name in GENERATED}
  recipes = {p.name for p in (source.ROOT / "gin_configs").rglob("*.gin")}
  wrong = []
  for name in re.findall(r"`([\w./]+)(?:\([^`]*\))?`", prose(path)):
    head, _, rest = name.partition(".")
    if "/" in name or not rest:
      continue
    if name.endswith(".gin"):
      found = name in recipes or name == "config.gin"
    elif name.endswith((".json", ".jsonl", ".html")):
      found = any(name in source.text(p) for p in source.modules())
    elif head in packages:
      found = exists(f"rlaif_jax.{name}")
    elif head == "rlaif_jax":
      found = exists(name)
    elif head in classes():
      found = rest in classes()[head]
    else:
      continue
    if not found:
      wrong.append(name)
  assert not wrong, f"{source.short(path)} names {wrong}"


def python_blocks(path) -> list[str]:
  """Returns the Python code of a document or a notebook."""
  if path.suffix == ".ipynb":
    cells = json.loads(source.text(path))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
  return re.findall(r"```python\n(.*?)```", source.text(path), re.S)


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=source.short)
def test_imports_in_documents_exist(path):
  wrong = []
  for block in python_blocks(path):
    for node in ast.walk(ast.parse(block)):
      module = getattr(node, "module", None) or ""
      if isinstance(node, ast.ImportFrom) and module.startswith("rlaif_jax"):
        names = [f"{module}.{alias.name}" for alias in node.names]
        wrong += [name for name in names if not exists(name)]
  assert not wrong, f"{source.short(path)} imports {wrong}"
