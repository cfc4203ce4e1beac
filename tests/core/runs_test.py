# SPDX-License-Identifier: Apache-2.0
"""A directory belongs to one configuration."""

from __future__ import annotations

import pytest

from rlaif_jax.core import runs

CONFIG = "label.limit = 4\nlabel.budget_usd = 1.0\n"


def test_the_same_configuration_continues(tmp_path):
  runs.claim(tmp_path / "run", CONFIG)
  runs.claim(tmp_path / "run", CONFIG)
  assert (tmp_path / "run" / "config.gin").read_text() == CONFIG


def test_another_is_refused_and_the_difference_shown(tmp_path):
  runs.claim(tmp_path, CONFIG)
  with pytest.raises(ValueError, match=r"(?s)- label.limit = 4.*\+ .* = 5"):
    runs.claim(tmp_path, CONFIG.replace("4", "5"), ["label.budget_usd"])


def test_a_budget_may_be_raised(tmp_path):
  runs.claim(tmp_path, CONFIG)
  more = CONFIG.replace("1.0", "2.0")
  with pytest.raises(ValueError, match="budget_usd = 2.0"):
    runs.claim(tmp_path, more)
  runs.claim(tmp_path, more, ["label.budget_usd"])
  runs.claim(tmp_path, "label.limit = 4\n", ["label.budget_usd"])
