# SPDX-License-Identifier: Apache-2.0
"""Jobs are loaded by name."""

from __future__ import annotations

import pytest

from rlaif_jax.cli import command_line
from rlaif_jax.cli import job_table
from rlaif_jax.core import job_spec
from rlaif_jax.jobs import label_pairs
from rlaif_jax.jobs import prepare_data


def test_an_unknown_job_is_answered_with_the_nearest():
  assert job_table.load("label") is label_pairs.run
  with pytest.raises(command_line.UsageError, match="did you mean 'label'"):
    job_table.load("labell")


def test_a_job_without_a_spec_gets_the_defaults(monkeypatch):
  assert job_table.spec_of(label_pairs.run) is label_pairs.JOB
  monkeypatch.delattr(prepare_data, "JOB", raising=False)
  assert job_table.spec_of(prepare_data.run) == job_spec.JobSpec()
