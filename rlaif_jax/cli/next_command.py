# SPDX-License-Identifier: Apache-2.0
"""The command that follows a finished job, printed for the user to copy."""

from __future__ import annotations

import pathlib
import re
import shlex
from typing import Callable, Mapping, Sequence

from rlaif_jax.cli import command_line
from rlaif_jax.cli import configuration
from rlaif_jax.cli import imported_parts
from rlaif_jax.cli import resolution
from rlaif_jax.cli import gin_reader


def suggest(
  command: command_line.Command,
  bindings: Sequence[configuration.Binding],
  jobs: Mapping[str, Callable[..., object]],
  advice: str = "",
  parts: imported_parts.ImportedParts | None = None,
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
    parts: imported parts that the bindings name.
  """
  folder = pathlib.Path(command.output_dir).parent
  for name in command.gin_files:
    path = gin_reader.find(name, command.gin_search_paths)
    header = re.search(r"^# Next: *(.*)$", path.read_text("utf-8"), re.M)
    if header:
      return header[1].replace("runs/", f"{folder}/").strip()
  names = list(jobs)
  end = names.index("evaluate") + 1 if "evaluate" in names else len(names)
  after = names[names.index(command.job) + 1 : end]
  if advice or not after:
    return advice
  words = ["python", "-m", "rlaif_jax.main", f"--job={after[0]}"]
  if command.gin_search_paths:
    words.append(f"--gin_search_paths={','.join(command.gin_search_paths)}")
  words += [f"--gin_file={path}" for path in command.gin_files]
  words += [f"--gin.{key}={value}" for key, value in command.bindings]
  needed = resolution.missing(after[0], bindings, jobs, parts)
  words += [f"--gin.{value.flag}=VALUE" for value in needed]
  return shlex.join([*words, f"--output_dir={folder / after[0]}"])
