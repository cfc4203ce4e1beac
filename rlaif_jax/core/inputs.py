# SPDX-License-Identifier: Apache-2.0
"""Tells the recorder of a run which files are read.

Each reader of a user's file calls `note` before it opens the file. The command
line sets the recorder (`cli.input_records`); without one `note` does nothing.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Callable, Iterator

Note = Callable[[str | os.PathLike], object]

# One run is recorded at a time. A context variable would not reach threads.
_note: Note | None = None


def note(path: str | os.PathLike) -> pathlib.Path:
  """Records a file that is about to be read, and returns its path.

  Raises:
    ValueError: if the run has read it before with another content.
  """
  if _note is not None:
    _note(path)
  return pathlib.Path(path)


@contextlib.contextmanager
def recording(recorder: Note | None) -> Iterator[None]:
  """Makes `note` call the recorder; None makes it do nothing."""
  global _note
  before, _note = _note, recorder
  try:
    yield
  finally:
    _note = before
