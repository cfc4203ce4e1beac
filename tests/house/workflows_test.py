# SPDX-License-Identifier: Apache-2.0
"""Workflows, hooks and issue forms parse, and name commands that exist."""

from __future__ import annotations

import ast
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
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


def read(path):
  return yaml.safe_load(source.text(path))


def setup_arguments() -> dict[str, ast.expr]:
  """The keyword arguments of setuptools.setup in setup.py."""
  module = source.tree(source.ROOT / "setup.py")
  (call,) = [
    node
    for node in ast.walk(module)
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setup")
  ]
  return {keyword.arg: keyword.value for keyword in call.keywords}


def extras() -> set[str]:
  return {key.value for key in setup_arguments()["extras_require"].keys}


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
        is_known = words[2] in installed or importlib.util.find_spec(words[2])
        assert is_known, where
      elif words[0] != "rlaif-jax":  # See setup.py.
        beside = f"{sysconfig.get_path('scripts')}/{words[0]}"
        assert shutil.which(words[0]) or shutil.which(beside), where


@pytest.mark.parametrize("path", WORKFLOWS, ids=source.short)
def test_files_and_extras_exist(path):
  for name, job in read(path)["jobs"].items():
    for words in commands(job):
      where = f"{name}: {shlex.join(words)}"
      for word in words:
        named = re.fullmatch(r"\.\[(.*)\]", word)
        if named:
          assert set(named[1].split(",")) <= extras(), where
        elif re.match(r"(tests|launch|\.ci|\.github)/", word):
          assert list(source.ROOT.glob(word)), where


def test_lower_bounds_are_the_versions_of_the_oldest_environment():
  """The job `oldest` installs exactly the lower bounds of setup.py."""
  bounds = dict(
    requirement.split(">=")
    for requirement in ast.literal_eval(setup_arguments()["install_requires"])
  )
  pins = dict(
    line.split("==")
    for line in source.text(GITHUB / "oldest.txt").splitlines()
    if line and not line.startswith("#")
  )
  assert pins == bounds


def test_the_entry_point_exists():
  scripts = ast.literal_eval(setup_arguments()["entry_points"])
  (script,) = scripts["console_scripts"]
  name, _, target = script.partition(" = ")
  module, _, function = target.partition(":")
  assert name == "rlaif-jax"
  assert callable(getattr(importlib.import_module(module), function))


def test_constraints_pin_every_dependency_within_its_bound():
  """constraints.txt holds the tested version of each required package."""
  pins = dict(
    line.lower().split("==")
    for line in source.text(source.ROOT / "constraints.txt").splitlines()
    if line and not line.startswith("#")
  )
  for requirement in ast.literal_eval(setup_arguments()["install_requires"]):
    name, bound = requirement.lower().split(">=")
    numbers = [int(x) for x in pins[name].split(".")]
    assert numbers >= [int(x) for x in bound.split(".")], requirement
