# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from rlaif_jax.cli import job_table


def test_help_is_fast_and_touches_no_jax():
  code = textwrap.dedent("""
    import sys
    from rlaif_jax import main
    assert main.main(["--help"]) == 0
    heavy = {"jax", "numpy", "tensorflow", "seqio", "flax"} & set(sys.modules)
    assert not heavy, heavy
  """)
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  for job in job_table.JOBS:
    assert job in done.stdout
