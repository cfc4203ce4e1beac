# SPDX-License-Identifier: Apache-2.0
"""Every JOB of a job module is a JobSpec with real parameter names."""

from __future__ import annotations

import importlib

import pytest

from rlaif_jax.cli import configuration
from rlaif_jax.cli import job_table
from rlaif_jax.core import job_spec


@pytest.mark.parametrize("job", job_table.JOBS)
def test_overridable_parameters_exist(job):
  module = importlib.import_module(job_table.JOBS[job])
  spec = job_table.spec_of(module.run)
  assert spec is getattr(module, "JOB", spec)
  assert isinstance(spec, job_spec.JobSpec)
  targets = (module.run, *configuration.dataclasses_of(module.run))
  names = {n for t in targets for n in configuration.parameters_of(t)}
  assert set(spec.overridable) <= names


def test_defaults_describe_a_single_process_job_that_runs_once():
  spec = job_spec.JobSpec()
  assert not spec.always_rerun and not spec.multihost
  assert spec.overridable == ()
