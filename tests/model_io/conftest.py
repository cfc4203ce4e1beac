# SPDX-License-Identifier: Apache-2.0
"""The tiny world of the jobs' tests."""

from tests.jobs.conftest import world  # noqa: F401
