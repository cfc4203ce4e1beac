# SPDX-License-Identifier: Apache-2.0
"""The longer of computing and reading counts, for each phase by itself."""

from __future__ import annotations

import pytest

from rlaif_jax.bench import roofline

MACHINE = roofline.Machine(flops=100.0, bandwidth=10.0)


def test_each_phase_takes_the_longer_of_its_two_times():
  computing = roofline.Phase(name="a", flops=300.0, bytes=10.0, times=2.0)
  reading = roofline.Phase(name="b", flops=50.0, bytes=70.0)
  assert computing.seconds(MACHINE) == 6.0
  assert computing.bound(MACHINE) == "compute"
  assert reading.seconds(MACHINE) == 7.0
  assert reading.bound(MACHINE) == "memory"
  found = roofline.summary([computing, reading], MACHINE)
  assert found["roofline_s"] == 13.0
  assert found["phases"]["b"] == {"seconds": 7.0, "bound": "memory"}


def test_seconds_are_of_calls_after_the_first():
  calls = []
  assert len(roofline.seconds_of(lambda: calls.append(0), 3)) == 3
  assert len(calls) == 4


def test_rates_are_those_of_the_work_that_was_timed(monkeypatch):
  monkeypatch.setattr(roofline, "seconds_of", lambda call, n: [4.0, 2.0])
  found = roofline.measure(sides=(10, 20), numbers=5 * 1024, repetitions=1)
  assert found.flops == pytest.approx(2 * 20**3 / 2.0)
  assert found.bandwidth == pytest.approx(4 * 5 * 1024 / 2.0)


def test_a_machine_is_measured():
  found = roofline.measure(sides=(64,), numbers=2**14, repetitions=2)
  assert found.flops > 0 and found.bandwidth > 0


def test_alternating_calls(monkeypatch):
  order = []
  monkeypatch.setattr(
    roofline, "seconds_of", lambda call, n: [float(call() or n)]
  )
  calls = {name: (lambda n=name: order.append(n)) for name in "ab"}
  assert roofline.alternate(calls, 2) == {"a": 1.0, "b": 1.0}
  assert order == ["a", "b", "a", "b"]
