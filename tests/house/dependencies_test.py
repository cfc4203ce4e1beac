# SPDX-License-Identifier: Apache-2.0
"""Dependencies are bounded, pinned as tested, licensed and checked."""

from __future__ import annotations

import re

import pytest
import yaml
from packaging import requirements
from packaging import utils

from tests.house import source

# Of development; their newest versions are tried by the workflow.
UNBOUNDED = {"docs", "test"}
# Their reason is in setup.py.
ANY_VERSION = {"pyarrow", "libtpu"}
# Their builds depend on the machine.
NOT_PINNED = {"libtpu", "torch", "setuptools", "wheel"}


def needed() -> list[tuple[str, requirements.Requirement]]:
  """Pairs of extra ("" is every installation) and requirement."""
  options = source.setup_options()
  groups = {"": options["install_requires"], **options["extras_require"]}
  return [
    (extra, requirements.Requirement(line))
    for extra, lines in groups.items()
    for line in lines
  ]


def pins(path) -> dict[str, str]:
  """Version by normalized name of a file of constraints."""
  lines = source.text(path).splitlines()
  pairs = [line.split("==") for line in lines if not line.startswith("#")]
  return {utils.canonicalize_name(name): version for name, version in pairs}


def test_what_runs_is_bounded_below_the_next_major_version():
  for extra, requirement in needed():
    if extra not in UNBOUNDED and requirement.name not in ANY_VERSION:
      upper = [s for s in requirement.specifier if s.operator == "<"]
      assert upper, f"{extra}: {requirement} has no upper bound"


def test_lower_bounds_are_the_versions_of_the_oldest_environment():
  """The job `oldest` installs exactly the lower bounds of setup.py."""
  bounds = {
    utils.canonicalize_name(requirement.name): spec.version
    for extra, requirement in needed()
    for spec in requirement.specifier
    if not extra and spec.operator == ">="
  }
  assert pins(source.ROOT / ".github/oldest.txt") == bounds
  assert len(bounds) == len(source.setup_options()["install_requires"])


def test_constraints_pin_every_dependency_within_its_bounds():
  """constraints.txt holds the tested version of each required package."""
  tested = pins(source.ROOT / "constraints.txt")
  for extra, requirement in needed():
    name = utils.canonicalize_name(requirement.name)
    if name not in NOT_PINNED:
      assert requirement.specifier.contains(tested[name]), f"{extra}: {name}"


@pytest.fixture(scope="module")
def licenses() -> dict[str, list[str]]:
  """Rows of the page by normalized name."""
  text = source.text(source.ROOT / "docs/design/licenses.md")
  rows = re.findall(r"^\| ([\w.-]+) \| (.+) \| (.+) \| (.*) \|$", text, re.M)
  return {utils.canonicalize_name(name): rest for name, *rest in rows[2:]}


def test_every_dependency_has_a_licence(licenses):
  again = "run python docs/design/licenses.py"
  groups = {}
  for extra, requirement in needed():
    name = utils.canonicalize_name(requirement.name)
    groups.setdefault(name, []).append(extra or "all")
  for name, extras in groups.items():
    assert name in licenses and licenses[name][2] == ", ".join(extras), again
    assert name == "libtpu" or licenses[name][1] != "not installed", again
  for name, version in pins(source.ROOT / "constraints.txt").items():
    assert licenses[name][0] == version, f"{name}: {again}"
  assert set(licenses) == set(groups) | set(
    pins(source.ROOT / "constraints.txt")
  )


def test_no_licence_binds_the_users_of_the_library(licenses):
  strict = {
    name for name, row in licenses.items() if re.search(r"GPL|General", row[1])
  }
  assert not strict


def test_the_workflow_checks_and_lists_dependencies():
  workflow = yaml.safe_load(
    source.text(source.ROOT / ".github/workflows/tests.yml")
  )
  steps = workflow["jobs"]["dependencies"]["steps"]
  text = " ".join(step.get("run", "") for step in steps)
  assert "-m pip_audit --disable-pip --no-deps -r constraints.txt" in text
  assert "-m cyclonedx_py environment" in text
  # Every night, since vulnerabilities are found in old versions.
  assert workflow[True]["schedule"]  # "on" is a truth value of YAML
  assert workflow["permissions"] == {"contents": "read"}
