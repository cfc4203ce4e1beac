# SPDX-License-Identifier: Apache-2.0
"""ComputeConfig refuses what no job can run."""

from __future__ import annotations

import pytest

from rlaif_jax.core import compute


def test_defaults_use_all_devices_and_keep_everything():
  config = compute.ComputeConfig()
  assert (config.mesh, config.microbatches) == ("data:-1", 1)
  assert (config.remat, config.scan_layers) == ("none", False)


@pytest.mark.parametrize(
  "field, value", [("microbatches", 0), ("remat", "some")]
)
def test_bad_values_are_named(field, value):
  with pytest.raises(ValueError, match=f"ComputeConfig.{field} is"):
    compute.ComputeConfig(**{field: value})


@pytest.mark.parametrize(
  "wrong, named",
  [
    ({"dtype": "int4"}, "dtype is 'int4'"),
    ({"rules": (("embd", "fsdp"),)}, "'embd'"),
    ({"rules": (("embed", "rows"),)}, "'rows'"),
  ],
)
def test_bad_placements_are_errors(wrong, named):
  with pytest.raises(ValueError, match=named):
    compute.Placement(**wrong)


def test_a_placement_replaces_single_rules():
  table = compute.Placement(rules=(("embed", ""),)).table()
  assert table == {**dict(compute.RULES), "embed": None}
