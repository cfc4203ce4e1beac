# SPDX-License-Identifier: Apache-2.0
"""Test environment: 8 CPU devices, a compilation cache, strict broadcasting.

The environment is set before JAX is imported, because JAX reads it once.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile

from tests import xla_flags

_DEVICES = "--xla_force_host_platform_device_count=8"

os.environ["JAX_PLATFORMS"] = "cpu"
if "device_count" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES} {xla_flags.QUICK}"
  )
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# All tests, workers and runs share compiled programs; RLAIF_TEST_CACHE names
# another folder. A user's own JAX_COMPILATION_CACHE_DIR is ignored.
_CACHE = pathlib.Path(tempfile.gettempdir(), f"rlaif_jax_tests_{os.getuid()}")
os.environ |= {
  "JAX_COMPILATION_CACHE_DIR": os.environ.get("RLAIF_TEST_CACHE", str(_CACHE)),
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def rank_promotion_raises():
  """Makes [B] + [B, L] an error."""
  jax.config.update("jax_numpy_rank_promotion", "raise")
  yield


def pytest_sessionfinish():
  """Saves the coverage of this process, if it is measured.

  pytest-xdist ends a worker that needs more than ten seconds to exit, and JAX
  does after a whole suite.
  """
  coverage = sys.modules.get("coverage")
  current = coverage and coverage.Coverage.current()
  if current:
    current.save()
