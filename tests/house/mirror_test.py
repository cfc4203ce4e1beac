# SPDX-License-Identifier: Apache-2.0
"""Every module has its test file, and every test file its module."""

from __future__ import annotations

import subprocess

import pytest

from rlaif_jax.cli import job_table
from tests.house import source

# Tests of no single module.
FREE = {"launch", "house", "e2e", "fuzz"}
FREE_FILES = {"tests/ops/exact_world_test.py"}

TOP_LEVEL = {
  "rlaif_jax",
  "gin_configs",
  "launch",
  "tests",
  "docs",
  "setup.py",
  "pyproject.toml",
  "MANIFEST.in",
  "constraints.txt",
  "README.md",
  "LICENSE",
  "CHANGELOG.md",
  "CONTRIBUTING.md",
  "SECURITY.md",
  "CITATION.cff",
  "mkdocs.yml",
}


def test_every_module_has_its_test():
  missing = []
  for path in source.modules():
    if path.name == "__init__.py":
      continue
    name = path.relative_to(source.PACKAGE).with_name(f"{path.stem}_test.py")
    if not (source.ROOT / "tests" / name).exists():
      missing.append(f"tests/{name.as_posix()}")
  assert not missing, "write these:\n" + "\n".join(missing)


def test_every_test_has_its_module():
  lost = []
  for path in source.tests():
    inside = path.relative_to(source.ROOT / "tests")
    if not path.name.endswith("_test.py") or inside.parts[0] in FREE:
      continue
    name = inside.with_name(path.name.replace("_test.py", ".py"))
    if source.short(path) in FREE_FILES:
      continue
    if not (source.PACKAGE / name).exists():
      lost.append(f"{source.short(path)} tests no module")
  assert not lost, "\n".join(lost)


def test_every_job_is_in_the_table_once():
  """A module of jobs/ with a `run` is a job; others serve the jobs."""
  modules = {
    source.dotted(path)
    for path in source.modules()
    if path.parent.name == "jobs"
    and any(
      getattr(node, "name", "") == "run" for node in source.tree(path).body
    )
  }
  assert sorted(job_table.JOBS.values()) == sorted(modules)


def test_top_level():
  done = subprocess.run(
    ["git", "ls-files"],
    cwd=source.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    pytest.skip("no git checkout: the installed copy has no top level")
  names = {line.split("/")[0] for line in done.stdout.splitlines()}
  visible = {name for name in names if not name.startswith(".")}
  assert visible == TOP_LEVEL
