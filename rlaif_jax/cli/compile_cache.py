# SPDX-License-Identifier: Apache-2.0
"""Where compiled programs are kept between runs. Knows no JAX."""

from __future__ import annotations

import pathlib
import platform
from typing import Mapping, MutableMapping

# What users set, and what JAX reads.
OURS = "RLAIF_JAX_CACHE"
JAX = "JAX_COMPILATION_CACHE_DIR"


def folder(environ: Mapping[str, str]) -> str:
  """The folder, or "" for none.

  That of JAX's own variable, else of RLAIF_JAX_CACHE ("off" is none), else one
  of the user's, and of this machine's: programs for CPUs run only on their
  like.
  """
  if environ.get(JAX):
    return environ[JAX]
  if environ.get(OURS):
    return "" if environ[OURS] == "off" else environ[OURS]
  caches = environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return str(pathlib.Path(caches) / "rlaif_jax" / (platform.node() or "here"))


def turn_on(environ: MutableMapping[str, str]) -> None:
  """Tells JAX, which must not be imported yet."""
  if kept := folder(environ):
    environ[JAX] = kept
