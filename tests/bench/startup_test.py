# SPDX-License-Identifier: Apache-2.0
"""Processes are timed whole, and share a cache that was empty at first."""

from __future__ import annotations

from rlaif_jax.bench import startup
from tests import testing


def test_one_step_is_made():
  assert startup.first_step(testing.tiny_decoder(20), 4, 3, 2) == 1


def test_the_second_process_finds_what_the_first_kept(capsys):
  """The stand-in sleeps when the cache is empty, and fills it."""
  step = """
import os, pathlib, time
kept = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) / "a-cache"
if not kept.exists():
  time.sleep(1)
  kept.touch()
"""
  line = startup.run(step)
  assert line["first_step_cold_s"] >= 1 > line["first_step_warm_s"]
  assert line["programs"] == 1 and line["import_s"] > 0
  assert "startup" in capsys.readouterr().out
