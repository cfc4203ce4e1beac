# SPDX-License-Identifier: Apache-2.0
"""Writes the complete configuration of a run as gin text."""

from __future__ import annotations

import ast
import dataclasses
import re
from typing import Callable, Mapping

from rlaif_jax.cli import configuration
from rlaif_jax.cli import imported_parts


def render(
  job: str,
  run: Callable[..., object],
  arguments: Mapping[str, object],
  parts: imported_parts.ImportedParts | None = None,
) -> str:
  """Returns gin text with every value of a run, defaults included.

  The text has no macros and no bindings of other jobs, so two texts are equal
  exactly if the configurations are. Resolving the text gives the same
  arguments. A value without a gin literal, such as inf, is commented out. Of an
  imported part, the bound arguments are written; `parts` knows them.
  """
  parts = parts or imported_parts.ImportedParts()
  blocks: list[str] = [f"import {name}\n" for name in parts.modules]
  if blocks:
    blocks = ["".join(blocks)]

  def text(value, scope):
    if origin := parts.origin(value):
      mark = "()" if origin.is_called else ""
      if not origin.arguments:
        return f"@{origin.name}{mark}"
      write(f"{scope}/{origin.name}", origin.arguments, scope + "_")
      return f"@{scope}/{origin.name}{mark}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
      values = {
        f: getattr(value, f) for f in configuration.parameters_of(type(value))
      }
      name = type(value).__name__
      write(f"{scope}/{name}", values, scope + "_")
      return f"@{scope}/{name}()"
    if isinstance(value, (list, tuple)):
      items = [text(v, f"{scope}_{i}") for i, v in enumerate(value)]
      if isinstance(value, list):
        return f"[{', '.join(items)}]"
      return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    return repr(value)

  def write(name, values, scope):
    place = len(blocks)
    blocks.append("")
    lines = []
    for field, value in values.items():
      literal = text(value, scope + field)
      mark = "" if _is_literal(literal) else "# "
      lines.append(f"{mark}{name}.{field} = {literal}\n")
    blocks[place] = "".join(lines)

  values = {
    field: arguments.get(field, parameter.default)
    for field, parameter in configuration.parameters_of(run).items()
  }
  write(job, values, "")
  return "\n".join(block for block in blocks if block)


def _is_literal(text: str) -> bool:
  try:
    ast.literal_eval(re.sub(r"@[\w/.]+(\(\))?", "None", text))
  except (ValueError, SyntaxError):
    return False
  return True
