# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import pytest

from rlaif_jax import main
from rlaif_jax.cli import job_runner
from rlaif_jax.cli import job_table
from rlaif_jax.engine import preemption


@pytest.fixture(name="failing")
def fixture_failing(monkeypatch):
  """Makes the job raise an error."""

  def fail_with(error):
    def run(command):
      raise error

    monkeypatch.setattr(job_runner, "run", run)

  factory = logging.getLogRecordFactory()
  yield fail_with
  logging.setLogRecordFactory(factory)


def with_note(error, note):
  error.add_note(note)
  return error


@pytest.mark.parametrize(
  "error, message",
  [
    (ValueError("f.json: bad\n  more"), "error: f.json: bad\n  more\n"),
    (OSError(28, "no space", "/x"), "error: [Errno 28] no space: '/x'\n"),
    (KeyError("a"), "error: KeyError: 'a' (--debug shows where)\n"),
    (
      RuntimeError("RESOURCE_EXHAUSTED: 3G of 2G\nlong\nlist"),
      "error: RuntimeError: RESOURCE_EXHAUSTED: 3G of 2G "
      "(--debug shows where)\n",
    ),
    (AssertionError(), "error: AssertionError: no message (--debug shows"),
    (with_note(TypeError("t"), "in f"), "error: TypeError: t; in f (--debug"),
    (ValueError("\x1b[31mred\ud800"), "error: \\x1b[31mred\\ud800\n"),
  ],
)
def test_every_error_is_one_message(failing, capsys, error, message):
  failing(error)
  assert main.main(["--job=x"]) == 2
  assert capsys.readouterr().err.startswith(message)
  with pytest.raises(type(error)):
    main.main(["--job=x", "--debug"])


def test_stops_are_no_errors(failing, capsys):
  failing(preemption.Preempted("step 3"))
  assert main.main(["--job=x"]) == preemption.EXIT_CODE
  assert "Resume with" in capsys.readouterr().err
  failing(KeyboardInterrupt())
  with pytest.raises(KeyboardInterrupt):
    main.main(["--job=x"])


def test_log_messages_have_no_terminal_escapes(failing, caplog):
  failing(ValueError("x"))
  main.main(["--job=x"])
  logging.getLogger("absl").warning("%s sent %d", "a\x1b]0;title\x07", 3)
  assert caplog.messages == ["a\\x1b]0;title\\x07 sent 3"]


def test_help_is_fast_and_touches_no_jax():
  code = textwrap.dedent("""
    import sys
    from rlaif_jax import main
    assert main.main(["--help"]) == 0
    heavy = {"jax", "numpy", "tensorflow", "seqio", "flax"} & set(sys.modules)
    assert not heavy, heavy
  """)
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  for job in job_table.JOBS:
    assert job in done.stdout
