# SPDX-License-Identifier: Apache-2.0
"""The folder of JAX's persistent compilation cache. Does not import JAX."""

from __future__ import annotations

import pathlib
import platform
from typing import Mapping, MutableMapping

# The variable of this package, and JAX's own.
OURS = "RLAIF_JAX_CACHE"
JAX = "JAX_COMPILATION_CACHE_DIR"


def cache_dir(environ: Mapping[str, str]) -> str:
  """Returns the folder, or "" if the cache is off.

  JAX's variable comes first, then RLAIF_JAX_CACHE ("off" disables the cache),
  then the user's cache folder, with one folder per host name: programs
  compiled for one CPU may not run on another.
  """
  if environ.get(JAX):
    return environ[JAX]
  if environ.get(OURS):
    return "" if environ[OURS] == "off" else environ[OURS]
  caches = environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return str(pathlib.Path(caches) / "rlaif_jax" / (platform.node() or "here"))


def enable(environ: MutableMapping[str, str]) -> None:
  """Sets JAX's variable; must run before JAX is imported."""
  if directory := cache_dir(environ):
    environ[JAX] = directory
