# SPDX-License-Identifier: Apache-2.0
"""The output directory of a command: checked, locked, claimed and recorded."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import types
from typing import Iterator, Mapping

from rlaif_jax.cli import input_records
from rlaif_jax.cli import output_dirs
from rlaif_jax.cli import output_lock
from rlaif_jax.core import inputs
from rlaif_jax.core import job_spec


class RunFolder:
  """The output directory of a command.

  Args:
    directory: value of --output_dir.
    spec: how the command line treats the job.
    accept_changes: resumes although inputs have changed.

  Attributes:
    result: file of the run's result.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    spec: job_spec.JobSpec,
    *,
    accept_changes: bool = False,
  ):
    self._directory = pathlib.Path(directory)
    self.result = self._directory / "result.json"
    self._spec = spec
    self._accept = accept_changes

  @property
  def is_finished(self) -> bool:
    """Whether the run has a result and is not run again."""
    return self.result.exists() and not self._spec.always_rerun

  def open(
    self,
    stack: contextlib.ExitStack,
    config: str,
    arguments: Mapping[str, object],
    processes: types.ModuleType | None = None,
  ) -> None:
    """Makes the directory ready for the job, or for its result to be read.

    Locks it, writes config.gin, compares what the run has read before, and
    records what it reads. One of several processes does this; all stop if it
    fails.

    Args:
      stack: unlocks the directory and stops recording when it is closed.
      config: the complete configuration as gin text.
      arguments: arguments of the job.
      processes: the module `engine.processes`, if there may be several.

    Raises:
      ValueError: if the directory cannot be used; says why.
    """
    stack.enter_context(_explaining_full_disk(self._directory))
    output_dirs.check(self._directory, config, self._spec)
    output_dirs.check_apart(self._directory, arguments)
    if processes is None:
      self._take(stack, config)
      return
    error: Exception | None = None
    if processes.is_writer():
      try:
        self._take(stack, config)
      except (ValueError, OSError) as caught:
        error = caught
    failed = processes.sum_of_all({"failed": int(error is not None)})
    if error is not None:
      raise error
    if failed["failed"]:
      raise ValueError("process 0 could not start the run; see its log")

  def _take(self, stack: contextlib.ExitStack, config: str) -> None:
    if not self.is_finished or self._accept:
      stack.enter_context(output_lock.hold(self._directory))
      output_dirs.claim(self._directory, config, self._spec)
    is_checked = not self._spec.always_rerun
    recorder = input_records.Recorder(
      self._directory,
      accept=self._accept or not is_checked,
      resume=is_checked,
    )
    recorder.check(is_finished=self.is_finished)
    if not self.is_finished:
      recorder.start()
      stack.enter_context(inputs.recording(recorder.note))


@contextlib.contextmanager
def _explaining_full_disk(directory: pathlib.Path) -> Iterator[None]:
  """Adds to the error of a full disk which folder it has and what to do.

  The error of a write, unlike that of an open, does not name a file.
  """
  try:
    yield
  except (OSError, ValueError) as error:
    full = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)]
    if any(text in str(error) for text in full):
      error.add_note(
        f"make room for --output_dir {directory} and start the same command "
        "again; what is complete there is kept"
      )
    raise
