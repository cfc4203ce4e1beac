# SPDX-License-Identifier: Apache-2.0
"""The README's reuse example runs; importing the package costs nothing."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def python(code: str) -> str:
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


def test_the_reuse_example_runs():
  text = (ROOT / "README.md").read_text("utf-8")
  code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
  loss, kl = map(float, python(code).split())
  assert loss == loss and abs(kl) < 1e-4


def test_imports_touch_no_device_and_need_no_tensorflow():
  code = """
import sys
for name in ("tensorflow", "seqio", "tensorflow_datasets", "gin"):
  sys.modules[name] = None  # Importing it would fail.
import rlaif_jax
assert "jax" not in sys.modules
from rlaif_jax.engine import decode, loop, step
from rlaif_jax.labeling import direct, judge
from rlaif_jax.reward import model
from rlaif_jax.rl import rollout
import jax
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
  python(code)
