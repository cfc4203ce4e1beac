# SPDX-License-Identifier: Apache-2.0
"""Resolves bindings to the arguments of a job.

Applies gin's rules for scopes and macros, builds config dataclasses, and
reports every missing or invalid value at once.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import functools
import inspect
import types
import typing
from typing import Any, Callable, Mapping, Sequence

from rlaif_jax.cli import configuration
from rlaif_jax.cli import imported_parts


class _Builder:
  """Evaluates the bindings of one job; collects missing and wrong values."""

  def __init__(
    self,
    bindings: Sequence[configuration.Binding],
    jobs: configuration.Targets,
    parts: imported_parts.ImportedParts,
  ):
    self._targets = configuration.targets_of(jobs) | parts.targets
    self._parts = parts
    self._macros = {b.name: b for b in bindings if not b.field}
    self._values = collections.defaultdict(dict)
    for b in bindings:
      if b.field:
        self._values[b.scope, b.name][b.field] = b
    self.missing: list[configuration.Missing] = []
    self.wrong: list[str] = []

  def arguments(
    self, scope: str, name: str, is_partial: bool = False
  ) -> dict[str, object]:
    """Returns a target's arguments in a scope; notes and omits missing ones.

    A partial target takes what is not bound from an instance.
    """
    bound: dict[str, configuration.Binding] = {}
    parts = scope.split("/") if scope else []
    for end in range(len(parts) + 1):
      bound |= self._values.get(("/".join(parts[:end]), name), {})
    target = self._targets[name]
    hints = configuration.hints_of(target)
    result = {}
    parameters = configuration.parameters_of(target)
    if configuration.takes_any(target):
      empty = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
      parameters = dict.fromkeys(bound, empty) | parameters
    for field, parameter in parameters.items():
      flag = "/".join(filter(None, [scope, name])) + f".{field}"
      if field in bound:
        value = self._value(bound[field].value, scope, flag, ())
        if value is not self:
          result[field] = self._checked(
            value, hints.get(field, Any), flag, bound[field].where
          )
      elif cls := configuration.config_class(hints.get(field), self._targets):
        value = self._implied(scope, cls, parameter.default, is_partial, flag)
        if value is not self:
          result[field] = value
      elif parameter.default is inspect.Parameter.empty and not is_partial:
        self._note(flag, f"{flag} is required", hints.get(field, Any))
    return result

  def _implied(
    self, scope: str, cls: type, default: object, is_partial: bool, flag: str
  ) -> object:
    """A config that no binding refers to: its default with its bindings.

    The builder itself stands for a default that nothing changes, and for a
    config that lacks values.
    """
    if default is inspect.Parameter.empty:
      if is_partial and not self._has_bindings(scope, cls):
        return self
      return self._make(scope, cls.__name__, flag)
    bound = self.arguments(scope, cls.__name__, is_partial=True)
    if not bound or default is None:
      return self
    return self._called(
      functools.partial(dataclasses.replace, default), bound, flag, cls.__name__
    )

  def _has_bindings(self, scope: str, cls: type) -> bool:
    """Whether a binding reaches a config class or one of its own configs."""
    names = {
      cls.__name__,
      *(c.__name__ for c in configuration.dataclasses_of(cls)),
    }
    return any(
      name in names and configuration.reaches(bound, scope)
      for bound, name in self._values
    )

  def _note(self, flag: str, reason: str, hint: object = Any) -> None:
    if dataclasses.is_dataclass(hint):
      reason += f": bind {flag} = @{hint.__name__}() in a gin file"
      self.missing.append(configuration.Missing(flag=flag, reason=reason))
      return
    reason += f": add --gin.{flag}=VALUE"
    if all(m.flag != flag for m in self.missing):
      self.missing.append(configuration.Missing(flag=flag, reason=reason))

  def _value(self, value: object, scope: str, flag: str, seen: tuple) -> object:
    """Evaluates a value; returns the builder itself if a part is missing."""
    if isinstance(value, configuration.Macro):
      if value.is_required:
        name = seen[-1] if seen else flag
        self._note(name, f"{flag} is required")
        return self
      if value.name in seen:
        raise configuration.ConfigurationError(
          f"{self._macros[value.name].where}: %{value.name} refers to itself; "
          "give it a value"
        )
      inner = self._macros[value.name].value
      return self._value(inner, scope, flag, (*seen, value.name))
    if isinstance(value, configuration.Reference):
      make = self._make if value.is_called else self._bound
      return make(value.scope or scope, value.name, flag)
    if isinstance(value, Mapping):
      items = [self._value(list(p), scope, flag, seen) for p in value.items()]
      return self if any(i is self for i in items) else dict(items)
    if isinstance(value, (list, tuple)):
      items = [self._value(v, scope, flag, seen) for v in value]
      return self if any(i is self for i in items) else type(value)(items)
    return value

  def _make(self, scope: str, name: str, flag: str) -> object:
    problems = len(self.missing) + len(self.wrong)
    arguments = self.arguments(scope, name)
    if len(self.missing) + len(self.wrong) > problems:
      return self
    value = self._called(self._targets[name], arguments, flag, name)
    self._parts.note_origin(value, name, arguments, is_called=True)
    return value

  def _bound(self, scope: str, name: str, flag: str) -> object:
    """Returns an imported function or class with the arguments bound to it."""
    del flag
    problems = len(self.missing) + len(self.wrong)
    arguments = self.arguments(scope, name, is_partial=True)
    if len(self.missing) + len(self.wrong) > problems:
      return self
    value = self._targets[name]
    if arguments:
      value = functools.partial(value, **arguments)
    self._parts.note_origin(value, name, arguments, is_called=False)
    return value

  def _called(
    self,
    make: Callable[..., object],
    arguments: dict[str, object],
    flag: str,
    name: str,
  ) -> object:
    try:
      return make(**arguments)
    except (ValueError, TypeError) as error:
      self.wrong.append(f"{flag} = @{name}(): {error}")
      return self

  def _checked(
    self, value: object, hint: object, flag: str, where: str
  ) -> object:
    if not accepts(value, hint):
      self.wrong.append(
        f"{where}: {flag} is {value!r}, {_expected(hint, value)}"
      )
    if typing.get_origin(hint) is tuple and isinstance(value, list):
      return tuple(value)
    return value


def _expected(hint: object, value: object) -> str:
  """Returns what a value of an annotation should be, for an error message."""
  kinds = [hint, *typing.get_args(hint)]
  choices = [k for k in kinds if typing.get_origin(k) is typing.Literal]
  if choices:
    takes_function = any(
      typing.get_origin(k) is collections.abc.Callable for k in kinds
    )
    other = (
      ", or a function as @my_package.my_function" if takes_function else ""
    )
    return f"use one of {typing.get_args(choices[0])}{other}"
  name = getattr(hint, "__name__", None)
  kind = name if isinstance(hint, type) and name else str(hint)
  return f"which is {type(value).__name__}; it must be {kind}"


def accepts(value: object, hint: object) -> bool:
  """Whether a value matches an annotation; unknown ones accept all values."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return any(accepts(value, kind) for kind in args)
  if origin is typing.Literal:
    return value in args
  if origin is tuple:
    if not isinstance(value, (list, tuple)):
      return False
    if len(args) == 2 and args[1] is Ellipsis:
      return all(accepts(v, args[0]) for v in value)
    return len(value) == len(args) and all(map(accepts, value, args))
  if origin is collections.abc.Callable:
    return callable(value)
  if hint in (None, type(None)):
    return value is None
  if hint is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if getattr(hint, "_is_protocol", False):
    return True
  if origin is None and isinstance(hint, type) and hint is not Any:
    return isinstance(value, hint)
  return True


def missing(
  job: str,
  bindings: Sequence[configuration.Binding],
  jobs: configuration.Targets,
  parts: imported_parts.ImportedParts | None = None,
) -> list[configuration.Missing]:
  """Returns the required values of a job that have no binding."""
  builder = _Builder(bindings, jobs, parts or imported_parts.ImportedParts())
  builder.arguments("", job)
  return builder.missing


def resolve(
  job: str,
  bindings: Sequence[configuration.Binding],
  jobs: configuration.Targets,
  parts: imported_parts.ImportedParts | None = None,
) -> dict[str, object]:
  """Returns the keyword arguments of a job; later bindings override earlier.

  Args:
    job: name of the job.
    bindings: all bindings of the command, with full names of imported parts.
    jobs: jobs by name.
    parts: imported parts; keeps the origins of the values.

  Raises:
    ConfigurationError: see `configuration.check`; or a required value is
      missing, a value has the wrong type, or a config refuses its fields. One
      error lists all such problems.
  """
  parts = parts or imported_parts.ImportedParts()
  configuration.check(bindings, jobs, parts.targets)
  builder = _Builder(bindings, jobs, parts)
  arguments = builder.arguments("", job)
  problems = builder.wrong + [m.reason for m in builder.missing]
  if problems:
    raise configuration.ConfigurationError("\n".join(problems))
  return arguments
