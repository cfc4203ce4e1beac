# SPDX-License-Identifier: Apache-2.0
"""The tutorials run, with the small settings in their metadata."""

from __future__ import annotations

import json
import pathlib
import sys

import matplotlib
import pytest

TUTORIALS = pathlib.Path(__file__).parents[2] / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """One folder for the tiny models of all tutorials."""
  return tmp_path_factory.mktemp("tutorials")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_tutorials_run(path, world, monkeypatch, capsys):
  matplotlib.use("agg")
  monkeypatch.chdir(TUTORIALS)
  monkeypatch.setenv("RLAIF_TUTORIAL_DIR", str(world))
  monkeypatch.setattr(sys, "path", [str(TUTORIALS), *sys.path])
  notebook = json.loads(path.read_text("utf-8"))
  names = {}
  for cell in notebook["cells"]:
    if cell["cell_type"] == "code":
      exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    if "parameters" in cell["metadata"].get("tags", []):
      exec(notebook["metadata"]["test_parameters"], names)
  assert capsys.readouterr().out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored_and_small(path):
  notebook = json.loads(path.read_text("utf-8"))
  cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
  assert any(cell["outputs"] for cell in cells)
  assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
  kinds = {out["output_type"] for cell in cells for out in cell["outputs"]}
  assert "error" not in kinds
  assert path.stat().st_size < 100_000
