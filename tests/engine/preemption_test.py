# SPDX-License-Identifier: Apache-2.0
"""SIGTERM asks; it does not kill."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import os, signal
from rlaif_jax.engine import preemption
preemption.install()
assert not preemption.requested()
os.kill(os.getpid(), signal.SIGTERM)
assert preemption.requested()
"""


def test_sigterm_sets_the_flag_and_the_process_lives():
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM], capture_output=True, check=False
  )
  assert done.returncode == 0, done.stderr
