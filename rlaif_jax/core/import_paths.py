# SPDX-License-Identifier: Apache-2.0
"""Users' objects by import path, such as `my_project.rewards:politeness`."""

from __future__ import annotations

import difflib
import importlib


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
