# SPDX-License-Identifier: Apache-2.0
"""Writes docs/design/licenses.md: the licences of all dependencies.

Reads the metadata of the packages of constraints.txt and setup.py, which must
be installed:

    python docs/design/licenses.py
"""

from __future__ import annotations

import collections
import importlib.metadata
import pathlib
import re
import runpy
from unittest import mock

ROOT = pathlib.Path(__file__).parents[2]

_HEAD = """# Licences of dependencies

The versions are those of `constraints.txt`; the licences are what the packages
declare. `python docs/design/licenses.py` writes this page. "needs" is what
`setup.py` requires a package for: every installation, or an extra. The other
packages come with these.

| package | version | licence | needs |
| -- | -- | -- | -- |
"""


def needs() -> dict[str, list[str]]:
  """Maps each package of setup.py to the extras that require it."""
  with mock.patch("setuptools.setup") as setup:
    runpy.run_path(str(ROOT / "setup.py"))
  options = setup.call_args.kwargs
  found = collections.defaultdict(list)
  groups = {"all": options["install_requires"], **options["extras_require"]}
  for group, requirements in groups.items():
    for requirement in requirements:
      name = re.match(r"[\w.-]+", requirement)[0]
      found[normal(name)].append(group)
  return found


def normal(name: str) -> str:
  """Returns the name of a package as PEP 503 compares it."""
  return re.sub(r"[-_.]+", "-", name).lower()


def license_of(name: str) -> str:
  """Returns the licence that a package declares, if it is installed."""
  try:
    fields = importlib.metadata.metadata(name)
  except importlib.metadata.PackageNotFoundError:
    return "not installed"
  if expression := fields.get("License-Expression"):
    return expression
  classes = [
    value.rpartition(" :: ")[2]
    for value in fields.get_all("Classifier", [])
    if value.startswith("License :: ") and "OSI Approved" != value[-12:]
  ]
  text = (fields.get("License") or "").strip().partition("\n")[0]
  return "; ".join(classes) or text[:60] or "not declared"


def main() -> None:
  """Writes the page."""
  required = needs()
  lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
  pins = dict(line.split("==") for line in lines if not line.startswith("#"))
  pinned = {normal(name) for name in pins}
  # Packages whose version depends on the machine.
  names = [*pins, *sorted(set(required) - pinned)]
  rows = []
  for name in names:
    groups = ", ".join(required.get(normal(name), []))
    version = pins.get(name, "any")
    rows.append(f"| {name} | {version} | {license_of(name)} | {groups} |\n")
  path = pathlib.Path(__file__).with_suffix(".md")
  path.write_text(_HEAD + "".join(rows), "utf-8")


if __name__ == "__main__":
  main()
