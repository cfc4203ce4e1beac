# SPDX-License-Identifier: Apache-2.0
"""Readers tell the recorder, which is set for a while."""

from __future__ import annotations

import pathlib
import threading

import pytest

from rlaif_jax.core import inputs


def test_without_recorder_a_note_is_the_path():
  assert inputs.note("a/b") == pathlib.Path("a/b")


def test_recorders_are_told_in_all_threads_and_restored():
  seen, inner = [], []
  with inputs.recording(seen.append):
    inputs.note("a")
    with inputs.recording(inner.append):
      inputs.note("b")
    with inputs.recording(None):
      inputs.note("c")
    thread = threading.Thread(target=inputs.note, args=["d"])
    thread.start()
    thread.join()
  inputs.note("e")
  assert (seen, inner) == (["a", "d"], ["b"])


def test_an_error_of_the_recorder_reaches_the_reader():
  def refuse(path):
    raise ValueError(f"{path} has changed")

  with pytest.raises(ValueError, match="a has changed"):
    with inputs.recording(refuse):
      inputs.note("a")
  inputs.note("a")
