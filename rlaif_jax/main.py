# SPDX-License-Identifier: Apache-2.0
"""The command line: a job, its gin files, bindings, an output directory.

    python -m rlaif_jax.main --job=JOB --gin_file=FILE --gin.NAME=VALUE \
        --output_dir=DIR

The only module that knows gin. A job is `run(*, output_dir, ...)` in a module
of `rlaif_jax.jobs`; the dataclasses in its annotations become configurable by
their class names, so jobs and library need no gin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import sys
import time
import tokenize
from typing import Any, Callable, Iterator, Mapping, Sequence

from gin import config_parser

from rlaif_jax.cli import compile_cache
from rlaif_jax.cli import configuration
from rlaif_jax.cli import resolution
from rlaif_jax.cli import gin_text
from rlaif_jax.cli import job_help
from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.cli import runs

# Up to `evaluate` in the paper's order, each followed by the next; then others.
JOBS = {
  "convert": "rlaif_jax.jobs.convert_checkpoint",
  "prepare": "rlaif_jax.jobs.prepare_data",
  "train_sft": "rlaif_jax.jobs.train_sft",
  "sample": "rlaif_jax.jobs.sample_responses",
  "label": "rlaif_jax.jobs.label_pairs",
  "train_reward": "rlaif_jax.jobs.train_reward",
  "train_policy": "rlaif_jax.jobs.train_policy",
  "evaluate": "rlaif_jax.jobs.evaluate",
  "train_dpo": "rlaif_jax.jobs.train_dpo",
  "train_online_dpo": "rlaif_jax.jobs.train_online_dpo",
  "weight_pairs": "rlaif_jax.jobs.weight_pairs",
  "train_ensemble": "rlaif_jax.jobs.train_ensemble",
  "label_beam": "rlaif_jax.jobs.label_beam",
  "rate": "rlaif_jax.jobs.rate_responses",
  "compare": "rlaif_jax.jobs.compare_policies",
  "score": "rlaif_jax.jobs.score_responses",
  "corrupt_pairs": "rlaif_jax.jobs.corrupt_pairs",
  "eval_judge": "rlaif_jax.jobs.eval_judge",
  "report": "rlaif_jax.jobs.report_runs",
  "plan": "rlaif_jax.jobs.plan_run",
  "perplexity": "rlaif_jax.jobs.measure_perplexity",
  "toy_world": "rlaif_jax.jobs.toy_world",
  "toy_world_report": "rlaif_jax.jobs.toy_world_report",
}

_ROOT = pathlib.Path(__file__).parents[1]

_USAGE = """\
python -m rlaif_jax.main --job=JOB --gin_file=FILE [--gin_file=FILE ...]
    [--gin.NAME=VALUE ...] --output_dir=DIR

  --gin_file   a recipe, or several; later files add to earlier ones
  --gin.X=V    sets a macro (--gin.STEPS=10) or a parameter
               (--gin.train_sft.batch_size=8); text needs no quotes
  --X=V        a parameter of the job or a field of one of its configs:
               --source=DIR is --gin.convert.source=DIR, and
               --num_steps=10 is --gin.TrainConfig.num_steps=10
  --gin_bindings="X = V"   the same, as gin writes it
  --output_dir where the job writes; the same command continues there
  --dry_run    prints what would run (and what labels would cost), and stops
  --debug      shows the traceback of an error
  --job=JOB --help   what a job does and takes
"""

_FLAGS = ("--job", "--gin_file", "--gin_bindings", "--output_dir")


class UsageError(ValueError):
  """A command line that cannot run."""


@dataclasses.dataclass(kw_only=True)
class Command:
  """The parsed command line."""

  job: str = ""
  gin_files: list[str] = dataclasses.field(default_factory=list)
  bindings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  parameters: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  output_dir: str = ""
  dry_run: bool = False
  debug: bool = False
  help: bool = False


def parse_command(arguments: Sequence[str]) -> Command:
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
    elif name == "--gin_bindings":
      key, _, value = value.partition("=")
      command.bindings.append((key.strip(), value.strip()))
    elif name.startswith("--gin."):
      command.bindings.append((name[len("--gin.") :], value))
    else:
      setattr(command, name[2:], value)
  return command


def _unknown_flag(flag: str, name: str, more: Sequence[str] = ()) -> UsageError:
  known = [*_FLAGS, "--dry_run", "--debug", "--help", *more]
  hint = configuration.nearest(name, known)
  return UsageError(f"unknown flag {flag!r}{hint}\n\n{_USAGE}")


def with_parameters(command: Command, run: Callable[..., Any]) -> Command:
  """Binds --name=value to the job's parameter or to a field of its configs.

  Raises:
    UsageError: the job has no such parameter or field, or several configs
      have it.
  """
  known = configuration.parameters_of(run)
  fields = configuration.config_fields(run)
  bindings = list(command.bindings)
  for name, value in command.parameters:
    targets = sorted(fields.get(name, ()))
    if name in known:
      targets = [f"{command.job}.{name}"]
    if not targets:
      raise _unknown_flag(
        f"--{name}={value}",
        f"--{name}",
        [f"--{other}" for other in (*known, *fields)],
      )
    if len(targets) > 1:
      ways = " or ".join(f"--gin.{target}={value}" for target in targets)
      raise UsageError(
        f"--{name} is a field of several configs of {command.job}; write {ways}"
      )
    bindings.append((targets[0], value))
  return dataclasses.replace(command, bindings=bindings, parameters=[])


def help_text(job: str) -> str:
  """The general help, or a job's own."""
  if not job:
    lines = [f"  {n:16} {job_help.first_line(m)}" for n, m in JOBS.items()]
    return "\n".join([_USAGE, "Jobs:", *lines])
  return job_help.describe(job, load_job(job))


def load_job(job: str) -> Callable[..., dict[str, Any]]:
  """The job's `run`.

  Raises:
    UsageError: no such job.
  """
  if job not in JOBS:
    raise UsageError(
      f"--job is {job!r}{configuration.nearest(job, JOBS)}; the jobs are "
      f"{', '.join(JOBS)}"
    )
  return importlib.import_module(JOBS[job]).run


# ---- From gin text to bindings.


class _Values(config_parser.ParserDelegate):
  """Turns gin's two kinds of names into our records."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    scope, _, name = scoped_configurable_name.rpartition("/")
    return configuration.Reference(scope=scope, name=name, is_called=evaluate)

  def macro(self, macro_name):
    return configuration.Macro(name=macro_name)


def _binding(
  key: str, value: Any, where: str, is_shared: bool = False
) -> configuration.Binding:
  scope, name, field = config_parser.parse_binding_key(key)
  return configuration.Binding(
    scope=scope,
    name=name,
    field=field,
    value=value,
    where=where,
    is_shared=is_shared,
  )


def find_gin_file(path: str, included_by: str = "") -> pathlib.Path:
  """A path relative to the current directory, or else to the repository.

  Raises:
    UsageError: it is in neither.
  """
  for candidate in (pathlib.Path(path), _ROOT / path):
    if candidate.is_file():
      return candidate
  by = f"; {included_by} includes it" if included_by else ""
  raise UsageError(
    f"--gin_file={path} does not exist (looked here and in {_ROOT}{by}); "
    "recipes are in gin_configs/recipes"
  )


def read_gin_file(
  path: str, including: tuple[str, ...] = ()
) -> Iterator[configuration.Binding]:
  """Bindings of a file and its includes, in order.

  Raises:
    UsageError: no such file, a circle of includes, or bad syntax.
  """
  if path in including:
    raise UsageError(f"{path} includes itself: {' -> '.join(including)}")
  found = find_gin_file(path, "".join(including[-1:]))
  try:
    with open(found, encoding="utf-8") as file:
      statements = list(config_parser.ConfigParser(file, _Values()))
  except SyntaxError as error:
    raise UsageError(f"{path}:{error.lineno}: {error.msg}") from error
  except tokenize.TokenError as error:
    raise UsageError(f"{path}:{error.args[1][0]}: {error.args[0]}") from error
  for statement in statements:
    where = f"{path}:{statement.location.line_num}"
    if isinstance(statement, config_parser.IncludeStatement):
      yield from read_gin_file(statement.filename, (*including, path))
    elif isinstance(statement, config_parser.ImportStatement):
      raise UsageError(
        f"{where}: imports are not needed; jobs and configs have plain names"
      )
    elif isinstance(statement, config_parser.BindingStatement):
      key = statement.selector
      key += f".{statement.arg_name}" if statement.arg_name else ""
      key = f"{statement.scope}/{key}" if statement.scope else key
      yield _binding(key, statement.value, where, bool(including))


def flag_binding(key: str, value: str) -> configuration.Binding:
  """--gin.KEY=VALUE; what is no literal, reference or macro is a string."""
  where = f"--gin.{key}"
  if not re.fullmatch(r"([A-Za-z_]\w*/)*[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", key):
    raise UsageError(f"{where}: {key!r} is no name; write --gin.NAME=VALUE")
  parsed: Any = value
  try:
    parser = config_parser.ConfigParser(value, _Values())
    candidate = parser.parse_value()
    if parser.current_token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
      parsed = candidate
  except (SyntaxError, tokenize.TokenError) as error:
    if value.startswith(("@", "%")):
      raise UsageError(f"{where}: cannot read {value!r}: {error}") from error
  return _binding(key, parsed, where)


def bindings_of(command: Command) -> list[configuration.Binding]:
  """All bindings, the command line's last."""
  bindings: list[configuration.Binding] = []
  for path in command.gin_files:
    bindings += read_gin_file(path)
  return bindings + [flag_binding(*pair) for pair in command.bindings]


# ---- The run.


def next_command(
  command: Command,
  bindings: Sequence[configuration.Binding],
  jobs: Mapping[str, Callable[..., Any]],
  advice: str = "",
) -> str:
  """The command of the job after this one; "" after the last.

  A recipe says it in a line `# Next: COMMAND` (with runs/ for the folder of all
  outputs), or the job does (`advice`). Else it is the next of `JOBS` with the
  same files and bindings, and what is still to be given is named.
  """
  folder = pathlib.Path(command.output_dir).parent
  for path in map(find_gin_file, command.gin_files):
    said = re.search(r"^# Next: *(.*)$", path.read_text("utf-8"), re.M)
    if said:
      return said[1].replace("runs/", f"{folder}/").strip()
  names = list(jobs)
  end = names.index("evaluate") + 1 if "evaluate" in names else len(names)
  after = names[names.index(command.job) + 1 : end]
  if advice or not after:
    return advice
  parts = ["python", "-m", "rlaif_jax.main", f"--job={after[0]}"]
  parts += [f"--gin_file={path}" for path in command.gin_files]
  parts += [f"--gin.{key}={value}" for key, value in command.bindings]
  needed = resolution.missing(after[0], bindings, jobs)
  parts += [f"--gin.{gap.flag}=VALUE" for gap in needed]
  return shlex.join([*parts, f"--output_dir={folder / after[0]}"])


def run_job(command: Command) -> None:
  """Configures and runs a job; a finished one is not run again.

  Unless its module says MADE_ANEW: what it writes shows what others wrote.
  """
  if not command.job:
    raise UsageError("--job is missing; the jobs are " + ", ".join(JOBS))
  if not command.output_dir and not command.dry_run:
    raise UsageError("--output_dir is missing; it says where the job writes")
  run = load_job(command.job)
  command = with_parameters(command, run)
  bindings = bindings_of(command)
  jobs = {job: load_job(job) for job in JOBS}
  arguments = resolution.resolve(command.job, bindings, jobs)
  config = gin_text.render(command.job, run, arguments)
  module = sys.modules[run.__module__]
  if command.dry_run:
    print(config, end="")
    if hasattr(module, "dry_run"):
      print(module.dry_run(**arguments))
    return
  group = None  # Most jobs need no JAX until they run.
  if runs.are_several(os.environ, command.job, module):
    group = importlib.import_module("rlaif_jax.engine.processes")
    group.start()
  directory = pathlib.Path(command.output_dir)
  runs.claim(directory, config, command.job, module)
  path = directory / "result.json"
  if path.exists() and not getattr(module, "MADE_ANEW", False):
    result = json.loads(path.read_text("utf-8"))
    print(f"{command.job}: already done, see {path}")
  else:
    preemption.install()
    if kept := os.environ.get(compile_cache.JAX):
      print(f"compiled programs are kept in {kept}")
    begin = time.monotonic()
    with group.together() if group else contextlib.nullcontext():
      result = dict(run(output_dir=command.output_dir, **arguments))
    advice = result.get("next", "")
    result["next"] = next_command(command, bindings, jobs, advice)
    result |= {
      "job": command.job,
      "seconds": round(time.monotonic() - begin, 1),
    }
    text = json.dumps(result, indent=2, sort_keys=True, default=str) + "\n"
    if group is None or group.is_writer():
      jsonl.write_text(path, text)
      print(text, end="")
  if result["next"]:
    print(f"next: {result['next']}")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line; returns the exit code (2: cannot run; 75: saved)."""
  arguments = sys.argv[1:] if arguments is None else list(arguments)
  try:
    command = parse_command(arguments)
    if command.help or not arguments:
      print(help_text(command.job))
    else:
      run_job(command)
    return 0
  except preemption.Preempted as stop:
    again = shlex.join(["python", "-m", "rlaif_jax.main", *arguments])
    print(f"{stop}; saved. Continue with:\n  {again}", file=sys.stderr)
    return preemption.EXIT_CODE
  except (ValueError, OSError, ImportError) as error:
    if "--debug" in arguments:
      raise
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  compile_cache.turn_on(os.environ)
  sys.exit(main())
