# SPDX-License-Identifier: Apache-2.0
"""Versions of what is installed, and nothing of what is not."""

from __future__ import annotations

import numpy as np

from rlaif_jax.core import versions


def test_what_is_not_installed_is_left_out():
  found = versions.installed(("numpy", "no-such-package-anywhere"))
  assert found == {"numpy": np.__version__}
