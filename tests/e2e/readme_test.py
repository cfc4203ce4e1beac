# SPDX-License-Identifier: Apache-2.0
"""The README's example runs; importing the package costs nothing."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import rlaif_jax as rj
from tests import tiny_world

ROOT = pathlib.Path(__file__).parents[2]

world = tiny_world.world  # a fixture


def python(code: str, directory: pathlib.Path = ROOT) -> str:
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=directory,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


def test_the_example_runs_on_the_quickstarts_models(world, tmp_path):
  """With two steps of its hundred, on tiny models in the same places."""
  text = (ROOT / "README.md").read_text("utf-8")
  code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
  assert "range(100)" in code
  code = code.replace("range(100)", "range(2)")
  code = re.sub(
    r"texts = \[.*?\]",
    'texts = ["the cat sat", "one red hat"]',
    code,
    flags=re.S,
  )
  code += "\nassert int(state.step) == 2 and abs(float(metrics['kl'])) < 1e-2"
  for name in ("sft", "labeler"):
    shutil.copytree(world / "sft" / "model", tmp_path / "runs" / name / "model")
  python(code, tmp_path)
  assert (tmp_path / "runs" / "rlaif" / "model" / "model.json").exists()


def test_public_names_are_documented_and_load():
  for name in rj.__all__:
    assert getattr(rj, name).__doc__, name
  assert set(rj.__all__) <= set(dir(rj))
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    getattr(rj, "nothing")  # noqa: B009


def test_imports_touch_no_device_and_need_no_tensorflow():
  code = """
import sys
for name in ("tensorflow", "seqio", "tensorflow_datasets", "gin"):
  sys.modules[name] = None  # Importing it would fail.
import rlaif_jax
assert "jax" not in sys.modules
from rlaif_jax.engine import decode, loop, step
from rlaif_jax.labeling import llm_reward, pairwise_judge
from rlaif_jax.reward import model
from rlaif_jax.rl import rollout
import jax
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
  python(code)
