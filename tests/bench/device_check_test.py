# SPDX-License-Identifier: Apache-2.0
"""The check of an installation, at the smallest size."""

from __future__ import annotations

import pytest

from rlaif_jax.bench import device_check
from rlaif_jax.bench import roofline


@pytest.fixture(autouse=True)
def machine(monkeypatch):
  known = roofline.Machine(flops=1e9, bandwidth=1e9)
  monkeypatch.setattr(roofline, "measure", lambda: known)
  monkeypatch.setattr(
    device_check,
    "STEPS",
    {name: device_check.STEPS[name] for name in ("rollout", "reward")},
  )


def test_it_prints_differences_and_a_table(capsys):
  lines = device_check.run("tiny")
  printed = capsys.readouterr().out
  assert all(line in printed for line in lines)
  assert "attention against plain, bfloat16: output" in printed
  rows = [line for line in lines if line.startswith("| tiny")]
  assert [row.split(" | ")[1] for row in rows] == ["rollout", "reward"]
  assert all("tokens" in row or "pairs" in row for row in rows)


def test_wrong_numbers_stop_it(monkeypatch):
  monkeypatch.setattr(device_check, "sampling_error", lambda config: 0.5)
  monkeypatch.setattr(device_check, "kernel_errors", lambda *_: {"output": 0.0})
  with pytest.raises(SystemExit, match="differ by more than rounding"):
    device_check.run("tiny")


def test_no_step_starts_too_late():
  rows = list(device_check.timed(["tiny"], until=0.0))
  assert all("not measured: out of time" in row for row in rows[2:])


def test_an_unknown_size_is_named():
  with pytest.raises(ValueError, match="--sizes has '7b'"):
    device_check.run("7b")
