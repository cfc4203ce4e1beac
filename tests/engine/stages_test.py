# SPDX-License-Identifier: Apache-2.0
"""A stage with a result file is not run again."""

from __future__ import annotations

import pytest

from rlaif_jax.engine import stages


def test_a_stage_runs_once_and_a_failed_one_again(tmp_path):
  calls = []

  def stage(number):
    calls.append(number)
    if number < 0:
      raise ValueError("failed")
    return {"number": number}

  path = tmp_path / "stage" / "result.json"
  with pytest.raises(ValueError, match="failed"):
    stages.run_once(path, stage, -1)
  for number in (1, 2):
    assert stages.run_once(path, stage, number) == {"number": 1}
  assert calls == [-1, 1]
