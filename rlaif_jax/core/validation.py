# SPDX-License-Identifier: Apache-2.0
"""Checks dataclass fields against the types and limits in their annotations.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class SamplingConfig(validation.Validated):
      max_tokens: validation.PositiveInt
      temperature: validation.NonNegativeFloat = 1.0
      top_p: Annotated[float, validation.Bounds(gt=0, le=1)] = 1.0
      order: Literal["both", "first"] = "both"

`SamplingConfig(max_tokens=0)` raises a ValueError: `SamplingConfig.max_tokens
is 0; it must be >= 1`. A check of several fields goes into the class's own
`__post_init__`, after `super().__post_init__()`.

`row_checks` are the stricter checks of fields that come from a JSON file.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math
import numbers
import types
import typing
from typing import Annotated, Callable, Collection, Literal

# Returns what a value should be, or "" if it is valid.
Check = Callable[[object], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
  """Limits of a number, with pydantic's names; NaN is outside all of them."""

  ge: float | None = None
  gt: float | None = None
  le: float | None = None
  lt: float | None = None

  def __call__(self, value: object) -> str:
    try:
      valid = (
        (self.ge is None or value >= self.ge)
        and (self.gt is None or value > self.gt)
        and (self.le is None or value <= self.le)
        and (self.lt is None or value < self.lt)
      )
    except TypeError:  # not a number
      valid = False
    return "" if valid else f"it must be {self}"

  def __str__(self) -> str:
    limits = {">=": self.ge, ">": self.gt, "<=": self.le, "<": self.lt}
    return " and ".join(
      f"{sign} {limit}" for sign, limit in limits.items() if limit is not None
    )


@dataclasses.dataclass(frozen=True)
class OneOf:
  """Choices that are known at run time only, such as the keys of a table."""

  choices: Collection[str]

  def __call__(self, value: object) -> str:
    choices = tuple(self.choices)
    return "" if value in choices else f"use one of {choices}"


PositiveInt = Annotated[int, Bounds(ge=1)]
NonNegativeInt = Annotated[int, Bounds(ge=0)]
PositiveFloat = Annotated[float, Bounds(gt=0)]
NonNegativeFloat = Annotated[float, Bounds(ge=0)]
Probability = Annotated[float, Bounds(ge=0, le=1)]
FloatDtype = Literal["float32", "bfloat16"]


class Validated:
  """Base of dataclasses whose annotations are checked."""

  def __post_init__(self):
    for name, check in _checks(type(self)):
      value = getattr(self, name)
      if expected := check(value):
        raise ValueError(
          f"{type(self).__name__}.{name} is {value!r}; {expected}"
        )


@functools.cache
def _checks(cls: type) -> tuple[tuple[str, Check], ...]:
  """Returns (field, check) of each field whose annotation is checked."""
  return _all_checks(cls, _KINDS)


@functools.cache
def row_checks(cls: type) -> tuple[tuple[str, Check], ...]:
  """Returns (field, check) of the fields of a dataclass, for JSON values.

  Numbers must be finite, integers must fit into 64 bits, and texts must be
  Unicode. Nested dataclasses are instances.
  """
  return _all_checks(cls, _ROW_KINDS)


def _all_checks(cls, kinds) -> tuple[tuple[str, Check], ...]:
  hints = typing.get_type_hints(cls, include_extras=True)
  fields = dataclasses.fields(cls)
  checks = [(f.name, _check(hints[f.name], kinds)) for f in fields]
  return tuple((name, check) for name, check in checks if check is not None)


def _is(kind: type, what: str) -> Check:
  def check(value):
    valid = isinstance(value, kind) and not isinstance(value, bool)
    return "" if valid else f"it must be {what}"

  return check


def _is_bool(value: object) -> str:
  return "" if isinstance(value, bool) else "it must be true or false"


def _is_finite(value: object) -> str:
  try:
    if type(value) in (int, float) and math.isfinite(value):
      return ""
  except OverflowError:
    pass
  return "it must be a finite number"


def _is_int64(value: object) -> str:
  valid = type(value) is int and -(2**63) <= value < 2**63
  return "" if valid else "it must be an integer"


def _is_text(value: object) -> str:
  if not isinstance(value, str):
    return "it must be a text"
  if value.isascii():
    return ""
  try:
    value.encode("utf-8")
  except UnicodeEncodeError:
    return "it must be Unicode"
  return ""


# Checks by type: of values in a program, and of those in a JSON file.
_KINDS = {
  int: _is(numbers.Integral, "an integer"),
  float: _is(numbers.Real, "a number"),
}
_ROW_KINDS = {int: _is_int64, float: _is_finite, bool: _is_bool, str: _is_text}


def expected(kind: type, value: object) -> str:
  """Returns what a JSON value should be to be of a type, or "" if it is."""
  return _ROW_KINDS[kind](value)


def _check(hint: object, kinds: dict[type, Check]) -> Check | None:
  """Returns the check of an annotation; None if it accepts every value."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is Literal:
    return OneOf(arguments)
  if origin is Annotated:
    inner = _check(arguments[0], kinds)
    marks = [m for m in arguments[1:] if isinstance(m, (Bounds, OneOf))]
    return _all_of([*([inner] if inner else []), *marks])
  if origin in (typing.Union, types.UnionType):
    members = [
      _is(a, f"a {a.__name__}")
      if dataclasses.is_dataclass(a) and kinds is _KINDS
      else _check(a, kinds)
      for a in arguments
      if a is not type(None)
    ]
    return None if None in members else _any_of(members, arguments)
  if origin in (tuple, list) and len(set(arguments) - {Ellipsis}) == 1:
    element = _check(arguments[0], kinds)
    return _each(element) if element else None
  if origin is collections.abc.Callable:
    return lambda value: "" if callable(value) else "it must be a function"
  if dataclasses.is_dataclass(hint) and kinds is _ROW_KINDS:
    return _is(hint, f"an object of {hint.__name__}")
  return kinds.get(hint)


def _all_of(checks: list[Check]) -> Check | None:
  if not checks:
    return None
  return lambda value: next(filter(None, (c(value) for c in checks)), "")


def _any_of(checks: list[Check], kinds: tuple[object, ...]) -> Check:
  def check(value):
    if value is None and type(None) in kinds:
      return ""
    problems = [c(value) for c in checks]
    return "" if "" in problems else "; or ".join(problems)

  return check


def _each(element: Check) -> Check:
  def check(values):
    if not isinstance(values, (list, tuple)):
      return "it must be a list"
    problems = filter(None, map(element, values))
    return next((f"each element: {problem}" for problem in problems), "")

  return check
