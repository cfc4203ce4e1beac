# SPDX-License-Identifier: Apache-2.0
"""Flags of the command line and of jobs."""

from __future__ import annotations

import pytest

from rlaif_jax.cli import command_line


def test_parameters_of_a_job_are_flags():
  def run(*, output_dir, source, rows=3):
    del output_dir, source, rows

  command = command_line.parse(["--job=j", "--source=a b", "--rows=4"])
  command = command_line.bind_parameters(command, run)
  assert command.bindings == [("j.source", "a b"), ("j.rows", "4")]
  wrong = command_line.parse(["--job=j", "--sourse=a"])
  with pytest.raises(command_line.UsageError, match="--sourse=a.*--source"):
    command_line.bind_parameters(wrong, run)


def test_a_flag_for_nothing_is_an_error():
  with pytest.raises(command_line.UsageError, match="unknown flag '-x'"):
    command_line.parse(["-x"])
