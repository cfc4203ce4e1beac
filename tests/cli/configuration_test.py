# SPDX-License-Identifier: Apache-2.0
"""The config classes of a job, and the flags that reach their fields."""

from __future__ import annotations

import dataclasses

import pytest

from rlaif_jax.cli import configuration


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
  rate: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Branch:
  leaf: Leaf | None = None
  size: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other:
  size: int = 0


def job(*, output_dir: str, branch: Branch, other: Other | None = None):
  del output_dir, branch, other


def twice(*, output_dir: str, branch: Branch, second: Leaf):
  del output_dir, branch, second


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
  rate: float = 1.0


def deep(*, output_dir: str, branch: Branch, train: Train = Train()):
  del output_dir, branch, train


JOBS = {"job": job}


def test_nested_configs_are_found():
  assert configuration.dataclasses_of(job) == (Branch, Leaf, Other)


def test_fields_name_the_configs_that_have_them():
  fields = configuration.config_fields(job)
  assert fields["rate"] == {"Leaf.rate"}
  assert fields["size"] == {"Branch.size", "Other.size"}


def test_own_configs_hide_fields_of_configs_in_configs():
  fields = configuration.config_fields(deep)
  assert fields["rate"] == {"Train.rate"}


def test_a_config_of_two_parameters_has_no_short_flags():
  fields = configuration.config_fields(twice)
  assert "rate" not in fields
  assert fields["size"] == {"Branch.size"}


def test_two_configs_of_one_name_are_an_error():
  other = dataclasses.make_dataclass("Leaf", [("x", int)])

  def second(*, output_dir, leaf):
    del output_dir, leaf

  second.__annotations__ = {"leaf": other}
  with pytest.raises(ValueError, match="another config has this name"):
    configuration.targets_of({**JOBS, "second": second})
