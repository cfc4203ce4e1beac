# SPDX-License-Identifier: Apache-2.0
"""The command line: a job, its gin files, bindings, an output directory.

    python -m rlaif_jax.main --job=JOB --gin_file=FILE --gin.NAME=VALUE \
        --output_dir=DIR

The only module that knows gin. A job is `run(*, output_dir, ...)` in a module
of `rlaif_jax.jobs`; the dataclasses in its annotations become configurable by
their class names, so jobs and library need no gin.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import json
import os
import pathlib
import re
import shlex
import sys
import time
import types
import typing
from typing import Any, Callable

from rlaif_jax.core import jsonl
from rlaif_jax.core import preemption

JOBS = {
  "prepare": "rlaif_jax.jobs.prepare_data",
  "train_sft": "rlaif_jax.jobs.train_sft",
  "sample": "rlaif_jax.jobs.sample_responses",
  "label": "rlaif_jax.jobs.label_pairs",
  "train_reward": "rlaif_jax.jobs.train_reward",
  "train_policy": "rlaif_jax.jobs.train_policy",
  "evaluate": "rlaif_jax.jobs.evaluate",
}

_USAGE = """\
python -m rlaif_jax.main --job=JOB --gin_file=FILE [--gin_file=FILE ...]
    [--gin.NAME=VALUE ...] --output_dir=DIR

  --gin_file   a recipe, or several; later files add to earlier ones
  --gin.X=V    sets a macro (--gin.STEPS=10) or a parameter
               (--gin.train_sft.batch_size=8); text needs no quotes
  --output_dir where the job writes; the same command continues there
  --dry_run    prints the configuration that would run, and stops
  --debug      shows the traceback of an error
  --job=JOB --help   what a job does and takes
"""


class UsageError(ValueError):
  """A command line or configuration that cannot run."""


@dataclasses.dataclass(kw_only=True)
class Command:
  """The parsed command line."""

  job: str = ""
  gin_files: list[str] = dataclasses.field(default_factory=list)
  bindings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  output_dir: str = ""
  dry_run: bool = False
  debug: bool = False
  help: bool = False


def parse_command(arguments: list[str]) -> Command:
  """Parses --name=value and --name value.

  Raises:
    UsageError: an unknown flag, with the nearest known one.
  """
  command = Command()
  rest = list(arguments)
  while rest:
    flag = rest.pop(0)
    if flag in ("--help", "-h"):
      command.help = True
      continue
    if flag in ("--dry_run", "--debug"):
      setattr(command, flag[2:], True)
      continue
    name, equals, value = flag.partition("=")
    known = ("--job", "--gin_file", "--output_dir")
    if name not in known and not name.startswith("--gin."):
      hint = _nearest(name, [*known, "--dry_run", "--debug", "--help"])
      raise UsageError(f"unknown flag {flag!r}{hint}\n\n{_USAGE}")
    if not equals:
      if not rest:
        raise UsageError(f"{name} needs a value: {name}=VALUE")
      value = rest.pop(0)
    if name == "--gin_file":
      command.gin_files.append(value)
    elif name.startswith("--gin."):
      command.bindings.append((name[len("--gin.") :], value))
    else:
      setattr(command, name[2:], value)
  return command


def _nearest(name: str, known: typing.Iterable[str]) -> str:
  close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
  return f"; did you mean {close[0]!r}?" if close else ""


def first_line(module: str) -> str:
  """First docstring line of a module, without importing it."""
  path = pathlib.Path(__file__).parents[1] / (module.replace(".", "/") + ".py")
  doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
  return doc.splitlines()[0] if doc else ""


def help_text(job: str) -> str:
  """The general help, or a job's own."""
  if not job:
    lines = [_USAGE, "Jobs:"]
    lines += [f"  {name:13} {first_line(m)}" for name, m in JOBS.items()]
    return "\n".join(lines)
  run = load_job(job)
  lines = [f"--job={job}", "", inspect.getmodule(run).__doc__ or "", ""]
  lines += [inspect.getdoc(run) or "", "", "Parameters:"]
  lines += _parameter_lines(job, run)
  for cls in dataclasses_of(run):
    lines += ["", f"{cls.__name__}: {inspect.getdoc(cls)}"]
    lines += _parameter_lines(cls.__name__, cls)
  return "\n".join(lines)


def _parameter_lines(name: str, target: Callable[..., Any]) -> list[str]:
  lines = []
  for parameter in inspect.signature(target).parameters.values():
    kind = str(parameter.annotation)
    text = f"  {name}.{parameter.name}: {kind}"
    if parameter.default is not inspect.Parameter.empty:
      text += f" = {parameter.default!r}"
    lines.append(text)
  return lines


def load_job(job: str) -> Callable[..., dict[str, Any]]:
  """The job's `run`.

  Raises:
    UsageError: no such job.
  """
  if job not in JOBS:
    raise UsageError(
      f"--job is {job!r}{_nearest(job, JOBS)}; the jobs are "
      f"{', '.join(JOBS)}"
    )
  return importlib.import_module(JOBS[job]).run


def dataclasses_of(target: Any) -> list[type]:
  """Dataclasses in the annotations of a function or dataclass, and in theirs."""
  found: list[type] = []

  def visit(annotation):
    if dataclasses.is_dataclass(annotation):
      if annotation not in found:
        found.append(annotation)
        for kind in typing.get_type_hints(annotation).values():
          visit(kind)
    for part in typing.get_args(annotation):
      visit(part)

  for kind in typing.get_type_hints(target).values():
    visit(kind)
  return found


def register(gin: types.ModuleType) -> dict[str, Any]:
  """Registers every job and config with gin; returns name -> target."""
  targets: dict[str, Any] = {}
  for job in JOBS:
    run = load_job(job)
    targets[job] = run
    for cls in dataclasses_of(run):
      known = targets.setdefault(cls.__name__, cls)
      if known is not cls:
        raise AssertionError(f"two configs are called {cls.__name__}")
  for name, target in targets.items():
    gin.external_configurable(target, name=name)
  return targets


def binding_text(name: str, value: str) -> str:
  """One gin line; a value that is no gin literal or reference is a string."""
  if value.startswith(("@", "%")):
    return f"{name} = {value}"
  try:
    ast.literal_eval(value)
    return f"{name} = {value}"
  except (ValueError, SyntaxError):
    return f"{name} = {value!r}"


def configure(command: Command) -> str:
  """Parses files and bindings into gin; returns the configuration's text.

  Raises:
    UsageError: a missing file, an unknown name or parameter, an unset
      REQUIRED macro, or a macro that nothing uses.
  """
  import gin

  gin.clear_config()
  targets = getattr(configure, "targets", None)
  if targets is None:
    targets = configure.targets = register(gin)
  for path in command.gin_files:
    if not pathlib.Path(path).exists():
      raise UsageError(
        f"--gin_file={path} does not exist; recipes are in "
        "gin_configs/recipes, relative to the directory you are in"
      )
  bindings = [binding_text(name, value) for name, value in command.bindings]
  _check_names(command, targets)
  root = pathlib.Path(__file__).parents[1]
  gin.add_config_file_search_path(str(root))
  try:
    gin.parse_config_files_and_bindings(command.gin_files, bindings)
  except (ValueError, SyntaxError, OSError, RuntimeError) as error:
    raise UsageError(f"configuration: {_gin_message(error)}") from error
  text = gin.config_str()
  _check_macros(text, command)
  return text


def _gin_message(error: Exception) -> str:
  text = str(error)
  match = re.search(r"%gin\.REQUIRED", text)
  hint = "\nSet it with --gin.NAME=VALUE." if match else ""
  return text + hint


def _check_names(command: Command, targets: dict[str, Any]) -> None:
  """Names in command-line bindings and files exist, or the nearest is told."""
  lines = []
  for path in command.gin_files:
    text = pathlib.Path(path).read_text("utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
      match = re.match(r"([A-Za-z_]\w*)\.(\w+)\s*=", line)
      if match:
        lines.append((f"{path}:{number}", *match.groups()))
  for name, _ in command.bindings:
    if "." in name:
      lines.append((f"--gin.{name}", *name.rsplit(".", 1)))
  for where, name, parameter in lines:
    if name not in targets:
      raise UsageError(
        f"{where}: nothing is called {name!r}{_nearest(name, targets)}"
      )
    names = list(inspect.signature(targets[name]).parameters)
    if parameter not in names:
      raise UsageError(
        f"{where}: {name} has no parameter {parameter!r}"
        f"{_nearest(parameter, names)}; it has {', '.join(names)}"
      )


def _check_macros(text: str, command: Command) -> None:
  """Every macro that is set is used somewhere."""
  text = re.sub(r"#.*", "", text).replace("\\\n", " ")
  defined = set(re.findall(r"^([A-Za-z_]\w*)\s*=", text, flags=re.M))
  used = set(re.findall(r"%([A-Za-z_]\w*)", text))
  unused = sorted(defined - used)
  if unused:
    given = {name for name, _ in command.bindings}
    where = "on the command line" if unused[0] in given else "in a gin file"
    raise UsageError(
      f"{unused[0]} is set {where} and nothing uses it"
      f"{_nearest(unused[0], used)}; the macros in use are "
      f"{', '.join(sorted(used))}"
    )


def job_config(text: str, job: str) -> str:
  """The part of a configuration that this job can see, sorted by line.

  A recipe serves several jobs, and changing what another job reads must not
  stop this one from resuming.
  """
  import gin

  with_macros = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
  values = dict(
    re.findall(r"^([\w.]+)\s*=\s*(.*)$", with_macros, flags=re.M)
  )
  names = {job, *(c.__name__ for c in dataclasses_of(load_job(job)))}
  queue = [k for k in values if k.rpartition(".")[0].split("/")[-1] in names]
  kept: dict[str, str] = {}
  while queue:
    name = queue.pop()
    if name in kept:
      continue
    kept[name] = re.sub(r"\s+", " ", values[name]).strip()
    queue += [m for m in re.findall(r"%(\w+)", values[name]) if m in values]
  del gin
  return "".join(f"{k} = {v}\n" for k, v in sorted(kept.items()))


def check_same_run(directory: pathlib.Path, config: str) -> None:
  """Refuses to mix two configurations in one output directory."""
  path = directory / "config.gin"
  if not path.exists():
    jsonl.write_text(path, config)
    return
  before = path.read_text("utf-8")
  if before != config:
    difference = [
      line
      for line in difflib.ndiff(before.splitlines(), config.splitlines())
      if line[:2] in ("- ", "+ ")
    ]
    raise UsageError(
      f"{directory} holds a run with another configuration (-: there, +: "
      "now):\n  " + "\n  ".join(difference) + "\nUse another --output_dir, or "
      "delete that one."
    )


def run_job(command: Command) -> dict[str, Any]:
  """Configures and runs a job; a finished one is not run again."""
  import gin

  if not command.job:
    raise UsageError("--job is missing; the jobs are " + ", ".join(JOBS))
  load_job(command.job)
  if not command.output_dir and not command.dry_run:
    raise UsageError("--output_dir is missing; it says where the job writes")
  config = job_config(configure(command), command.job)
  if command.dry_run:
    print(config, end="")
    return {}
  directory = pathlib.Path(command.output_dir)
  check_same_run(directory, config)
  result_path = directory / "result.json"
  if result_path.exists():
    print(f"{command.job}: already done, see {result_path}")
    return json.loads(result_path.read_text("utf-8"))
  preemption.install()
  begin = time.monotonic()
  job = gin.get_configurable(command.job)
  result = dict(job(output_dir=command.output_dir))
  result["job"] = command.job
  result["seconds"] = round(time.monotonic() - begin, 1)
  text = json.dumps(result, indent=2, sort_keys=True, default=str)
  jsonl.write_text(result_path, text + "\n")
  print(text)
  if result.get("next"):
    print(f"next: {result['next']}")
  return result


def main(arguments: list[str] | None = None) -> int:
  """Runs a command line; returns the exit code (2: cannot run; 75: saved)."""
  arguments = sys.argv[1:] if arguments is None else arguments
  debug = "--debug" in arguments
  try:
    command = parse_command(arguments)
    if command.help or not arguments:
      print(help_text(command.job))
      return 0
    run_job(command)
    return 0
  except preemption.Preempted as stop:
    again = shlex.join(["python", "-m", "rlaif_jax.main", *arguments])
    print(f"{stop}; saved. Continue with:\n  {again}", file=sys.stderr)
    return preemption.EXIT_CODE
  except (ValueError, FileNotFoundError) as error:
    if debug:
      raise
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  sys.exit(main())
