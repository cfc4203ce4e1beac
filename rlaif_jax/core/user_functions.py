# SPDX-License-Identifier: Apache-2.0
"""Users' functions: import paths, names in results, what they depend on."""

from __future__ import annotations

import difflib
import functools
import importlib
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


def load(path: str, what: str) -> object:
  """Returns the object at an import path.

  Args:
    path: "package.module:name" or "package.module.name". The module must be on
      Python's path, such as in the working directory of `python -m`.
    what: what the object is for, in errors.

  Raises:
    ValueError: if there is no such module or name; says what to type.
  """
  module_name, _, name = path.partition(":")
  if not name:
    module_name, _, name = path.rpartition(".")
  if not module_name or not name:
    raise ValueError(
      f"{what} is {path!r}; it must be an import path, such as "
      "'my_package.my_module:my_function'"
    )
  try:
    module = importlib.import_module(module_name)
  except ImportError as error:
    raise ValueError(
      f"{what} is {path!r}, and the import of {module_name} fails: {error}; "
      "start Python in the directory that has the module, or add it to "
      "PYTHONPATH"
    ) from error
  if not hasattr(module, name):
    near = difflib.get_close_matches(name, dir(module), n=1)
    hint = f"; did you mean {module_name}:{near[0]}?" if near else ""
    raise ValueError(f"{what} is {path!r}; {module_name} has no {name!r}{hint}")
  return getattr(module, name)
