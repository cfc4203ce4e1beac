# SPDX-License-Identifier: Apache-2.0
"""The world that tests run in: 8 CPU devices, no silent broadcasting.

The environment is set before anything imports JAX, which reads it once.
"""

from __future__ import annotations

import os

_DEVICES = "--xla_force_host_platform_device_count=8"
# Tests compile far more than they compute.
_QUICK = "--xla_backend_optimization_level=0"

os.environ["JAX_PLATFORMS"] = "cpu"
if "device_count" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES} {_QUICK}"
  )
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A config of the user's own must not change what a test sees.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
# Nor do jobs that tests start write into the user's home.
os.environ["RLAIF_JAX_CACHE"] = "off"

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def rank_promotion_raises():
  """[B] + [B, L] is a mistake that NumPy forgives; here it is an error."""
  jax.config.update("jax_numpy_rank_promotion", "raise")
  yield
