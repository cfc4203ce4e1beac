# SPDX-License-Identifier: Apache-2.0
"""Preemption: SIGTERM sets a flag; long work polls it, saves and stops."""

from __future__ import annotations

import signal
import threading

# Exit code of a preempted run that has saved (EX_TEMPFAIL: try again).
EXIT_CODE = 75

_stop = threading.Event()


class Preempted(RuntimeError):
  """The run has saved and stopped; the same command resumes it."""


def install() -> None:
  """Makes SIGTERM request a stop; call it from the main thread."""
  signal.signal(signal.SIGTERM, lambda *_: _stop.set())


def requested() -> bool:
  """Returns whether a stop was requested."""
  return _stop.is_set()
