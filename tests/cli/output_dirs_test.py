# SPDX-License-Identifier: Apache-2.0
"""A directory belongs to one configuration."""

from __future__ import annotations

import pathlib

import pytest

from rlaif_jax.cli import output_dirs
from rlaif_jax.core import job_spec

RIGID = job_spec.JobSpec()
LOOSE = job_spec.JobSpec(overridable=("budget_usd",))
CONFIG = "label.limit = 4\nlabel.budget_usd = 1.0\n"


def test_the_same_configuration_continues(tmp_path):
  output_dirs.claim(tmp_path / "run", CONFIG, RIGID)
  output_dirs.claim(tmp_path / "run", CONFIG, RIGID)
  assert (tmp_path / "run" / "config.gin").read_text() == CONFIG


def test_another_is_refused_and_the_difference_shown(tmp_path):
  output_dirs.claim(tmp_path, CONFIG, RIGID)
  with pytest.raises(ValueError, match=r"(?s)- label.limit = 4.*\+ .* = 5"):
    output_dirs.claim(tmp_path, CONFIG.replace("4", "5"), LOOSE)


def test_a_budget_may_be_raised(tmp_path):
  output_dirs.claim(tmp_path, CONFIG, RIGID)
  more = CONFIG.replace("1.0", "2.0")
  with pytest.raises(ValueError, match="budget_usd = 2.0"):
    output_dirs.claim(tmp_path, more, RIGID)
  output_dirs.claim(tmp_path, more, LOOSE)
  output_dirs.claim(tmp_path, "label.limit = 4\n", LOOSE)


def test_a_field_of_a_config_may_be_raised(tmp_path):
  config = CONFIG + "label.store = @store/StoreConfig()\n"
  config += "\nstore/StoreConfig.budget_usd = 1.0\n# x/StoreConfig.b = inf\n"
  output_dirs.claim(tmp_path, config, LOOSE)
  output_dirs.claim(tmp_path, config.replace("1.0", "9.0"), LOOSE)
  with pytest.raises(ValueError, match="another configuration"):
    output_dirs.claim(tmp_path, config.replace("b = inf", "b = 1"), LOOSE)


def test_an_address_is_no_folder():
  with pytest.raises(ValueError, match="gs:/bucket/run, an address"):
    output_dirs.claim(pathlib.Path("gs://bucket/run"), CONFIG, RIGID)
