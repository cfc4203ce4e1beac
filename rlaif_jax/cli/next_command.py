# SPDX-License-Identifier: Apache-2.0
"""The command that follows a finished job, printed for the user to copy."""

from __future__ import annotations

import pathlib
import re
import shlex
from typing import Callable, Mapping, Sequence

from rlaif_jax.cli import command_line
from rlaif_jax.cli import configuration
from rlaif_jax.cli import resolution
from rlaif_jax.cli import gin_reader


def suggest(
  command: command_line.Command,
  bindings: Sequence[configuration.Binding],
  jobs: Mapping[str, Callable[..., object]],
  advice: str = "",
) -> str:
  """Returns the command of the next job, or "" after the last one.

  The first of these: the line `# Next: COMMAND` of a recipe, in which runs/ is
  the parent of the output directory; `advice`; the next job of the table with
  the same files and bindings, where VALUE marks what the user must add.

  Args:
    command: the finished job's command.
    bindings: its bindings.
    jobs: job functions by name, in order.
    advice: what the job itself returned as "next".
  """
  folder = pathlib.Path(command.output_dir).parent
  for path in map(gin_reader.find, command.gin_files):
    header = re.search(r"^# Next: *(.*)$", path.read_text("utf-8"), re.M)
    if header:
      return header[1].replace("runs/", f"{folder}/").strip()
  names = list(jobs)
  end = names.index("evaluate") + 1 if "evaluate" in names else len(names)
  after = names[names.index(command.job) + 1 : end]
  if advice or not after:
    return advice
  parts = ["python", "-m", "rlaif_jax.main", f"--job={after[0]}"]
  parts += [f"--gin_file={path}" for path in command.gin_files]
  parts += [f"--gin.{key}={value}" for key, value in command.bindings]
  needed = resolution.missing(after[0], bindings, jobs)
  parts += [f"--gin.{value.flag}=VALUE" for value in needed]
  return shlex.join([*parts, f"--output_dir={folder / after[0]}"])
