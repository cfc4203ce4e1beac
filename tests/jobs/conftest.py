# SPDX-License-Identifier: Apache-2.0
"""The tiny world of all tests here."""

from tests.tiny_world import namesake  # noqa: F401
from tests.tiny_world import pairs_file  # noqa: F401
from tests.tiny_world import world  # noqa: F401
