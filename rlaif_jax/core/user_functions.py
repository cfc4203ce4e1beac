# SPDX-License-Identifier: Apache-2.0
"""Names of a user's functions in results, and what their outputs depend on."""

from __future__ import annotations

import functools
import inspect
import pathlib
import sys
from typing import Any

from rlaif_jax.core import inputs
from rlaif_jax.core import records


def name_of(part: object) -> str:
  """Returns MODULE.NAME of a function, or of the class of another object."""
  part = unbound(part)
  named = part if hasattr(part, "__qualname__") else type(part)
  return f"{named.__module__}.{named.__qualname__}"


def unbound(part: Any) -> Any:
  """Returns a function without the arguments that `functools.partial` binds."""
  while isinstance(part, functools.partial):
    part = part.func
  return part


def identity_of(part: Any) -> str:
  """Returns MODULE.NAME@HASH of a function.

  The hash changes with the source file and with the bound arguments. Stored
  labels and rewards of another version of the function are not reused.

  Raises:
    ValueError: if there is no source file.
  """
  name, arguments = name_of(part), []
  while isinstance(part, functools.partial):
    arguments += [repr(part.args), repr(sorted(part.keywords.items()))]
    part = part.func
  named = part if hasattr(part, "__qualname__") else type(part)
  module = sys.modules.get(named.__module__)
  file = inspect.getsourcefile(module) if module is not None else None
  if file is None:
    raise ValueError(
      f"{name} has no source file; define it in a module, so that stored "
      "results can be told apart from those of another version"
    )
  source = pathlib.Path(inputs.note(file)).read_text("utf-8")
  return f"{name}@{records.content_id(source, *arguments)[:12]}"
