# SPDX-License-Identifier: Apache-2.0
"""Metrics files after a kill, and the progress line."""

from __future__ import annotations

import pytest

from rlaif_jax.engine import metrics


def test_rows_past_the_restored_step_and_torn_lines_are_removed(tmp_path):
  file = metrics.MetricsFile(tmp_path / "m.jsonl")
  assert file.read() == []
  for step in (1, 2, 3):
    file.write(step, {"loss": step / 2})
  with open(tmp_path / "m.jsonl", "a") as f:
    f.write('{"step": 2, "lo')
  file.truncate_after(2)
  assert file.read() == [{"loss": 0.5, "step": 1}, {"loss": 1.0, "step": 2}]


@pytest.mark.parametrize(
  "seconds, text", [(5, "5s"), (75, "1m15s"), (7260, "2h01m")]
)
def test_durations(seconds, text):
  assert metrics.duration(seconds) == text


def test_progress_shows_rate_and_time_left(capsys, monkeypatch):
  now = iter([0.0, 10.0, 20.0, 30.0])
  monkeypatch.setattr(metrics.time, "monotonic", lambda: next(now))
  progress = metrics.Progress("job", 50, done=10)
  progress.update(11)
  progress.update(31, "loss 1")
  progress.update(50)
  lines = capsys.readouterr().err.splitlines()
  # The first step compiles, so it says nothing about the others.
  assert lines[0].endswith("11/50 steps, the first after 10s with compilation")
  assert "31/50 steps, 2 steps/s, 9s left  loss 1" in lines[1]
  assert "50/50" in lines[2] and "0s left" in lines[2]


def test_two_late_reports_give_no_rate(capsys, monkeypatch):
  now = iter([0.0, 40.0, 40.1])
  monkeypatch.setattr(metrics.time, "monotonic", lambda: next(now))
  progress = metrics.Progress("job", 2)
  progress.update(1)
  progress.update(2)
  assert "2/2 steps, 0.0499 steps/s" in capsys.readouterr().err


def test_input_share(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
  clock = metrics.StepClock()
  assert clock.summary()["steps"] == 0
  for making, updating in ((50.0, 50.0), (1.0, 9.0), (3.0, 7.0)):
    with clock.time_batch():
      now[0] += making
    now[0] += updating
  summary = clock.summary()
  assert summary == {"steps": 2, "step_seconds": 10.0, "input_share": 0.2}
