# SPDX-License-Identifier: Apache-2.0
"""Properties of a job that the command line reads before it runs the job."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobSpec:
  """How the command line treats a job; a job module assigns one to `JOB`.

  A module without `JOB` gets the defaults.

  Fields:
    always_rerun: run the job again although its result file exists. For jobs
      that report on files which change between runs.
    overridable: names of parameters, or of fields of the job's configs, that do
      not change the result (a budget, a port). A later run in the same output
      directory may change them.
    multihost: the job runs in several processes with global arrays.
  """

  always_rerun: bool = False
  overridable: tuple[str, ...] = ()
  multihost: bool = False
