# SPDX-License-Identifier: Apache-2.0
"""Versions of installed packages."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Iterable


def installed(names: Iterable[str]) -> dict[str, str]:
  """Returns the versions of the packages that are installed."""
  found = {}
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def of_library() -> str:
  """Returns the version of this library, also if it is not installed."""
  return sys.modules["rlaif_jax"].__version__
