# SPDX-License-Identifier: Apache-2.0
"""The documentation site builds without a warning and has every page."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

import rlaif_jax

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """The site, built as launch/docs.sh does; a warning is an error."""
  folder = tmp_path_factory.mktemp("site")
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
    cwd=ROOT,
    env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  warnings = [x for x in done.stderr.splitlines() if "WARNING" in x]
  assert done.returncode == 0, "\n".join(warnings[:10]) or done.stderr
  return folder


def test_every_module_is_in_the_reference(site):
  pages = "".join(
    path.read_text("utf-8") for path in site.glob("reference/*/index.html")
  )
  for path in (ROOT / "rlaif_jax").glob("*/*.py"):
    if path.name != "__init__.py":
      assert f'id="rlaif_jax.{path.parent.name}.{path.stem}"' in pages, path


def test_every_public_name_is_in_the_reference(site):
  page = (site / "reference" / "index.html").read_text("utf-8")
  for name in rlaif_jax.__all__:
    if name != "__version__":
      module = getattr(rlaif_jax, name).__module__
      assert f'id="{module}.{name}"' in page, name


def test_links_of_notebooks_lead_to_pages(site):
  pages = sorted(site.glob("tutorials/*/index.html"))
  assert len(pages) == len(list((ROOT / "docs/tutorials").glob("*.ipynb")))
  for path in pages:
    for link in re.findall(r'href="(\.\./[^"#]*)"', path.read_text("utf-8")):
      target = path.parent / link
      assert target.is_file() or (target / "index.html").is_file(), link


def test_figures_and_tables_are_copied(site):
  for name in ("experiments/growth.svg", "experiments/data/frontier.csv"):
    assert (site / name).exists()
  assert not list(site.rglob("*.py"))
