# SPDX-License-Identifier: Apache-2.0
"""Workflows, hooks and issue forms parse, and name commands that exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sysconfig

import pytest
import yaml

from tests.house import source

GITHUB = source.ROOT / ".github"
HOOKS = source.ROOT / ".pre-commit-config.yaml"
FILES = sorted([*GITHUB.rglob("*.yml"), HOOKS])
# Module -> the package that it is installed with.
PACKAGES = {"pip_audit": "pip-audit", "cyclonedx_py": "cyclonedx-bom"}
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


def read(path):
  return yaml.safe_load(source.text(path))


def commands(job) -> list[list[str]]:
  """The words of every command of a job."""
  text = "\n".join(step["run"] for step in job["steps"] if "run" in step)
  return [shlex.split(line) for line in text.splitlines() if line]


@pytest.mark.parametrize("path", FILES, ids=source.short)
def test_files_parse(path):
  assert read(path)


def test_there_is_a_workflow():
  assert WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=source.short)
def test_programs_and_modules_exist(path):
  for name, job in read(path)["jobs"].items():
    installed = {
      word
      for words in commands(job)
      if words[:4] == ["python", "-m", "pip", "install"]
      for word in words[4:]
    }
    for words in commands(job):
      where = f"{name}: {shlex.join(words)}"
      if words[:2] == ["python", "-m"]:
        package = PACKAGES.get(words[2], words[2])
        is_known = package in installed or importlib.util.find_spec(words[2])
        assert is_known, where
      elif words[0] != "rlaif-jax":  # See setup.py.
        beside = f"{sysconfig.get_path('scripts')}/{words[0]}"
        assert shutil.which(words[0]) or shutil.which(beside), where


@pytest.mark.parametrize("path", WORKFLOWS, ids=source.short)
def test_files_and_extras_exist(path):
  extras = set(source.setup_options()["extras_require"])
  for name, job in read(path)["jobs"].items():
    for words in commands(job):
      where = f"{name}: {shlex.join(words)}"
      for word in words:
        named = re.fullmatch(r"\.\[(.*)\]", word)
        if named:
          assert set(named[1].split(",")) <= extras, where
        elif re.match(r"(tests|launch|\.ci|\.github)/", word):
          assert list(source.ROOT.glob(word)), where


def test_the_entry_point_exists():
  (script,) = source.setup_options()["entry_points"]["console_scripts"]
  name, _, target = script.partition(" = ")
  module, _, function = target.partition(":")
  assert name == "rlaif-jax"
  assert callable(getattr(importlib.import_module(module), function))
