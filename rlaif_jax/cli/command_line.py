# SPDX-License-Identifier: Apache-2.0
"""Parsing of the command line."""

from __future__ import annotations

import dataclasses
import re
from typing import Callable, Sequence

from rlaif_jax.cli import configuration

USAGE = """\
python -m rlaif_jax.main --job=JOB --gin_file=FILE [--gin_file=FILE ...]
    [--gin.NAME=VALUE ...] --output_dir=DIR

  --gin_file   a recipe; repeat the flag to add files, later ones win
  --gin_search_paths=DIR,DIR   where gin files and their includes are found
               after the current directory
  --gin.X=V    sets a macro (--gin.STEPS=10) or a parameter
               (--gin.TrainConfig.batch_size=8); text needs no quotes
  --X=V        a parameter of the job or a field of one of its configs:
               --source=DIR is --gin.convert.source=DIR, and
               --max_tokens=9 is --gin.SamplingConfig.max_tokens=9
  --gin_bindings="X = V"   the same in gin syntax
  --output_dir where the job writes; the same command resumes there
  --dry_run    prints the configuration (and the cost of labels), then exits
  --accept_changes   resumes although inputs or versions have changed since
               the first start, and notes that in inputs.json
  --safe_gin   refuses gin files that import modules: an import runs code
  --debug      shows the traceback of an error
  --job=JOB --help   documents a job and its parameters
"""

# Flags without a value.
_SWITCHES = ("--dry_run", "--accept_changes", "--safe_gin", "--debug")
_FLAGS = (
  *("--job", "--gin_file", "--gin_search_paths", "--gin_bindings"),
  "--output_dir",
)


class UsageError(ValueError):
  """A command line that cannot run."""


@dataclasses.dataclass(kw_only=True)
class Command:
  """The parsed command line.

  Fields:
    bindings: (name, value) of each --gin.NAME=VALUE and --gin_bindings.
    parameters: (name, value) of each flag of the job itself.
  """

  job: str = ""
  gin_files: list[str] = dataclasses.field(default_factory=list)
  gin_search_paths: list[str] = dataclasses.field(default_factory=list)
  bindings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  parameters: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  output_dir: str = ""
  dry_run: bool = False
  accept_changes: bool = False
  safe_gin: bool = False
  debug: bool = False
  help: bool = False


def parse(arguments: Sequence[str]) -> Command:
  """Parses --name=value and --name value.

  Raises:
    UsageError: if a flag is unknown; names the nearest known flag.
  """
  command = Command()
  rest = list(arguments)
  while rest:
    flag = rest.pop(0)
    if flag in ("--help", "-h"):
      command.help = True
      continue
    if flag in _SWITCHES:
      setattr(command, flag[2:], True)
      continue
    name, equals, value = flag.partition("=")
    is_known = name in _FLAGS or name.startswith("--gin.")
    if not is_known and equals and re.fullmatch(r"--[a-z]\w*", name):
      command.parameters.append((name[2:], value))
      continue
    if not is_known:
      raise _unknown_flag(flag, name)
    if not equals:
      if not rest:
        raise UsageError(f"{name} needs a value: {name}=VALUE")
      value = rest.pop(0)
    if name == "--gin_file":
      command.gin_files.append(value)
    elif name == "--gin_search_paths":
      command.gin_search_paths += filter(None, value.split(","))
    elif name == "--gin_bindings":
      key, _, value = value.partition("=")
      command.bindings.append((key.strip(), value.strip()))
    elif name.startswith("--gin."):
      command.bindings.append((name[len("--gin.") :], value))
    else:
      setattr(command, name[2:], value)
  return command


def bind_parameters(command: Command, run: Callable[..., object]) -> Command:
  """Binds --name=value to the job's parameter or to a field of its configs.

  Raises:
    UsageError: if the job has no such parameter or field, or several of its
      configs have the field.
  """
  known = configuration.parameters_of(run)
  fields = configuration.config_fields(run)
  bindings = list(command.bindings)
  for name, value in command.parameters:
    targets = sorted(fields.get(name, ()))
    if name in known:
      targets = [f"{command.job}.{name}"]
    if not targets:
      names = [f"--{other}" for other in (*known, *fields)]
      raise _unknown_flag(f"--{name}={value}", f"--{name}", names)
    if len(targets) > 1:
      ways = " or ".join(f"--gin.{target}={value}" for target in targets)
      raise UsageError(
        f"--{name} is a field of several configs of {command.job}; write {ways}"
      )
    bindings.append((targets[0], value))
  return dataclasses.replace(command, bindings=bindings, parameters=[])


def _unknown_flag(
  flag: str, name: str, parameters: Sequence[str] = ()
) -> UsageError:
  known = [*_FLAGS, *_SWITCHES, "--help", *parameters]
  hint = configuration.nearest(name, known)
  return UsageError(f"unknown flag {flag!r}{hint}\n\n{USAGE}")
