# SPDX-License-Identifier: Apache-2.0
"""The command line: a job, its gin files, bindings, an output directory.

    python -m rlaif_jax.main --job=JOB --gin_file=FILE --gin.NAME=VALUE \
        --output_dir=DIR

`rlaif-jax` is the same as `python -m rlaif_jax.main`.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import NoReturn, Sequence

from rlaif_jax.cli import command_line
from rlaif_jax.cli import compile_cache
from rlaif_jax.cli import job_help
from rlaif_jax.cli import job_runner
from rlaif_jax.core import parsing
from rlaif_jax.engine import preemption


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line.

  Returns:
    The exit code: 0 if done, 2 on an error, 75 if preempted (resumable).
  """
  arguments = sys.argv[1:] if arguments is None else list(arguments)
  parsing.make_logs_printable()
  try:
    command = command_line.parse(arguments)
    if command.help or not arguments:
      print(job_help.text(command.job))
    else:
      job_runner.run(command)
    return 0
  except preemption.Preempted as stop:
    again = shlex.join(["python", "-m", "rlaif_jax.main", *arguments])
    print(f"{stop}; saved. Resume with:\n  {again}", file=sys.stderr)
    return preemption.EXIT_CODE
  except Exception as error:
    if "--debug" in arguments:
      raise
    print(f"error: {parsing.printable(_message(error))}", file=sys.stderr)
    return 2


def _message(error: Exception) -> str:
  """Returns what is printed of an error; one line of an unexpected one."""
  notes = getattr(error, "__notes__", [])
  if isinstance(error, (ValueError, OSError, ImportError)):
    return "\n".join([str(error), *notes])
  lines = str(error).strip().splitlines() or ["no message"]
  text = "; ".join([f"{type(error).__name__}: {lines[0]}", *notes])
  return f"{text} (--debug shows where)"


def console() -> NoReturn:
  """Entry point of `rlaif-jax`: sets the environment, then runs `main`."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  compile_cache.enable(os.environ)
  code = main()
  if code:
    # What Orbax still reads of a damaged file fails too while Python ends.
    sys.unraisablehook = lambda _: None
  sys.exit(code)


if __name__ == "__main__":
  console()
