# SPDX-License-Identifier: Apache-2.0
"""Choices and bounds in annotations, and the messages about them."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Literal

import numpy as np
import pytest

from rlaif_jax.core import validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(validation.Validated):
  """One field of each kind."""

  count: validation.PositiveInt = 1
  least: validation.NonNegativeInt = 0
  rate: validation.PositiveFloat = 1.0
  scale: validation.NonNegativeFloat = 0.0
  chance: validation.Probability = 0.5
  share: Annotated[float, validation.Bounds(ge=0, lt=1)] = 0.0
  remat: Literal["none", "full"] = "none"
  name: Annotated[str, validation.OneOf(NAMES)] = "a"
  limit: validation.PositiveInt | None = None
  sizes: tuple[validation.PositiveInt, ...] = (1,)
  kinds: tuple[Literal["x", "y"], ...] = ()
  mode: Literal["auto"] | validation.PositiveInt = "auto"
  free: str = ""
  pair: tuple[int, str] = (0, "")


# Annotations are read at the first construction, so order does not matter.
NAMES = {"a": 1, "b": 2}


@pytest.mark.parametrize(
  "field, value, expected",
  [
    ("count", 0, "0; it must be >= 1"),
    ("least", -1, "-1; it must be >= 0"),
    ("rate", 0.0, "0.0; it must be > 0"),
    ("scale", -0.5, "-0.5; it must be >= 0"),
    ("scale", math.nan, "nan; it must be >= 0"),
    ("chance", 1.5, "1.5; it must be >= 0 and <= 1"),
    ("share", 1, "1; it must be >= 0 and < 1"),
    ("count", "7", "'7'; it must be an integer"),
    ("count", None, "None; it must be an integer"),
    ("remat", "dots", "'dots'; use one of ('none', 'full')"),
    ("name", "c", "'c'; use one of ('a', 'b')"),
    ("name", ["a"], "['a']; use one of ('a', 'b')"),
    ("limit", 0, "0; it must be >= 1"),
    ("sizes", (2, 0), "(2, 0); each element: it must be >= 1"),
    ("kinds", ("x", "z"), "('x', 'z'); each element: use one of ('x', 'y')"),
    ("mode", "on", "'on'; use one of ('auto',); or it must be an integer"),
  ],
)
def test_names_field_value_and_what_is_expected(field, value, expected):
  with pytest.raises(ValueError) as error:
    Config(**{field: value})
  assert str(error.value) == f"Config.{field} is {expected}"


@pytest.mark.parametrize(
  "field, value",
  [
    ("count", 1),
    ("count", np.int32(3)),
    ("chance", 0),
    ("chance", 1),
    ("share", 0.999),
    ("remat", "full"),
    ("name", "b"),
    ("limit", None),
    ("limit", 5),
    ("sizes", ()),
    ("kinds", ["x", "y"]),
    ("mode", 4),
    ("free", "anything"),
    ("pair", (-1, "")),
  ],
)
def test_accepts_values_within_the_bounds(field, value):
  assert getattr(Config(**{field: value}), field) == value


def test_a_class_adds_its_own_check():
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Range(validation.Validated):
    first: validation.NonNegativeInt = 0
    last: validation.NonNegativeInt = 0

    def __post_init__(self):
      super().__post_init__()
      if self.last < self.first:
        raise ValueError(f"Range: {self.first} > {self.last}")

  with pytest.raises(ValueError, match="Range.last is -1"):
    Range(last=-1)
  with pytest.raises(ValueError, match="Range: 2 > 1"):
    Range(first=2, last=1)


def test_replace_checks_too():
  with pytest.raises(ValueError, match="Config.count is 0"):
    dataclasses.replace(Config(), count=0)


@pytest.mark.parametrize(
  "value, message",
  [(True, "integer"), (1.0, "integer"), ([1], "integer")],
)
def test_types_of_numbers(value, message):
  with pytest.raises(ValueError, match=f"Config.count is .*{message}"):
    Config(count=value)


def test_numbers_of_numpy_are_numbers():
  assert Config(count=np.int64(3), rate=np.float32(0.5)).count == 3
