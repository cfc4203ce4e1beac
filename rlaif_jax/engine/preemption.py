# SPDX-License-Identifier: Apache-2.0
"""A polite stop: SIGTERM sets a flag, long work looks at it and saves."""

from __future__ import annotations

import signal
import threading

# Exit code of a run that was asked to stop and saved (EX_TEMPFAIL: try again).
EXIT_CODE = 75

_stop = threading.Event()


class Preempted(RuntimeError):
  """The run has saved and stopped; the same command continues it."""


def install() -> None:
  """Makes SIGTERM ask for a stop; call from the main thread."""
  signal.signal(signal.SIGTERM, lambda *_: _stop.set())


def requested() -> bool:
  """Whether this process was asked to stop."""
  return _stop.is_set()
