# SPDX-License-Identifier: Apache-2.0
"""What `--help` prints of a job: its docstrings, parameters and defaults."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pathlib
from typing import Any, Callable

from rlaif_jax.cli import configuration


def first_line(module: str) -> str:
  """First docstring line of a module, without importing it.

  Raises:
    ValueError: there is no such module.
  """
  spec = importlib.util.find_spec(module)
  if spec is None or spec.origin is None:
    raise ValueError(f"{module} is not installed")
  text = pathlib.Path(spec.origin).read_text("utf-8")
  return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def describe(job: str, run: Callable[..., Any]) -> str:
  """A job's own help: the module, `run`, and every config it takes."""
  lines = [f"--job={job}", "", inspect.getmodule(run).__doc__ or "", ""]
  lines += [inspect.getdoc(run) or "", "", "Parameters:"]
  lines += _parameter_lines(job, run)
  for cls in configuration.dataclasses_of(run):
    lines += ["", f"{cls.__name__}: {inspect.getdoc(cls)}"]
    lines += _parameter_lines(cls.__name__, cls)
  return "\n".join(lines)


def _parameter_lines(name: str, target: Callable[..., Any]) -> list[str]:
  lines = []
  for parameter in configuration.parameters_of(target).values():
    text = f"  {name}.{parameter.name}: {parameter.annotation}"
    if parameter.default is not inspect.Parameter.empty:
      text += f" = {parameter.default!r}"
    lines.append(text)
  return lines
