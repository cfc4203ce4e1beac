# SPDX-License-Identifier: Apache-2.0
"""Text of `--help`, from docstrings, parameters and defaults."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import pathlib
import re
from typing import Callable

from rlaif_jax.cli import command_line
from rlaif_jax.cli import configuration
from rlaif_jax.cli import job_table


def text(job: str = "") -> str:
  """Returns the help of a job, or without one the flags and the jobs."""
  if job:
    return describe(job, job_table.load(job))
  lines = [f"  {n:16} {first_line(m)}" for n, m in job_table.JOBS.items()]
  return "\n".join([command_line.USAGE, "Jobs:", *lines])


def first_line(module: str) -> str:
  """Returns a module's first docstring line without importing the module.

  Raises:
    ValueError: if there is no such module.
  """
  spec = importlib.util.find_spec(module)
  if spec is None or spec.origin is None:
    raise ValueError(f"{module} is not installed")
  source = pathlib.Path(spec.origin).read_text("utf-8")
  return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def describe(job: str, run: Callable[..., object]) -> str:
  """Returns the docstrings and parameters of a job and of its configs."""
  lines = [f"--job={job}", "", inspect.getmodule(run).__doc__ or "", ""]
  lines += [inspect.getdoc(run) or "", "", "Parameters:"]
  lines += _parameter_lines(job, run)
  for cls in configuration.dataclasses_of(run):
    lines += ["", f"{cls.__name__}: {inspect.getdoc(cls)}"]
    lines += _parameter_lines(cls.__name__, cls)
  return "\n".join(lines)


def _parameter_lines(name: str, target: Callable[..., object]) -> list[str]:
  lines = []
  for parameter in configuration.parameters_of(target).values():
    kind = re.sub(r"\b\w+\.(?=\w)", "", str(parameter.annotation))
    line = f"  {name}.{parameter.name}: {kind}"
    if parameter.default is not inspect.Parameter.empty:
      line += f" = {_shown(parameter.default)}"
    lines.append(line)
  return lines


def _shown(value: object) -> str:
  """Returns a default; of a config, only what differs from its own defaults."""
  if not dataclasses.is_dataclass(value):
    return repr(value)
  changed = [
    f"{field.name}={_shown(getattr(value, field.name))}"
    for field in dataclasses.fields(value)
    if getattr(value, field.name) != field.default
  ]
  return f"{type(value).__name__}({', '.join(changed)})"
