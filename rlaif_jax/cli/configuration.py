# SPDX-License-Identifier: Apache-2.0
"""Resolves bindings to the arguments of a job and checks every name.

Implements scopes, macros, REQUIRED and references to config dataclasses.
`gin_reader` parses the text.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import inspect
import types
import typing
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence


class ConfigurationError(ValueError):
  """A wrong configuration; the message says what to type."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Macro:
  """The value `%NAME`; `%gin.REQUIRED` marks a value that must be set."""

  name: str

  @property
  def is_required(self) -> bool:
    return self.name in ("gin.REQUIRED", "REQUIRED")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
  """The value `@scope/Name()`."""

  scope: str
  name: str
  is_called: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Binding:
  """`scope/name.field = value`; the macro `NAME = value` has no field.

  Fields:
    where: file and line, or the flag, for error messages.
    is_shared: the binding comes from an included file. Its names must exist,
      but a recipe that includes the file may leave it unused.
  """

  scope: str = ""
  name: str
  field: str
  value: Any
  where: str
  is_shared: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Missing:
  """A required value without binding, and the flag that sets it."""

  flag: str
  reason: str


Targets = Mapping[str, Callable[..., Any]]


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns " (did you mean X?)" for the nearest known name, or ""."""
  close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
  return f" (did you mean {close[0]!r}?)" if close else ""


def dataclasses_of(target: Any) -> list[type]:
  """Returns the dataclasses in the annotations of a callable, recursively."""
  found: list[type] = []

  def visit(annotation):
    if dataclasses.is_dataclass(annotation) and annotation not in found:
      found.append(annotation)
      for kind in typing.get_type_hints(annotation).values():
        visit(kind)
    for part in typing.get_args(annotation):
      visit(part)

  for kind in typing.get_type_hints(target).values():
    visit(kind)
  return found


def targets_of(jobs: Targets) -> dict[str, Callable[..., Any]]:
  """Returns the jobs by name, and their config dataclasses by class name.

  Raises:
    ValueError: if two classes, or a class and a job, have the same name.
  """
  targets = dict(jobs)
  for run in jobs.values():
    for cls in dataclasses_of(run):
      if targets.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(
          f"{cls.__module__}.{cls.__name__}: another config has this name; "
          "rename one, names in gin files must be unique"
        )
  return targets


def parameters_of(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
  """Returns the parameters that a binding may set: all but `output_dir`."""
  parameters = dict(inspect.signature(target).parameters)
  if not inspect.isclass(target):
    parameters.pop("output_dir", None)
  return parameters


def _parts(value: Any) -> Iterator[Any]:
  """Yields the macros and references in a nested value."""
  if isinstance(value, (Macro, Reference)):
    yield value
  elif isinstance(value, Mapping):
    for pair in value.items():
      yield from _parts(list(pair))
  elif isinstance(value, (list, tuple)):
    for item in value:
      yield from _parts(item)


def _reaches(binding_scope: str, scope: str) -> bool:
  """Whether a binding applies in a scope: its own is equal or a prefix."""
  return not binding_scope or f"{scope}/".startswith(f"{binding_scope}/")


def check(bindings: Sequence[Binding], jobs: Targets) -> None:
  """Checks that every binding names a parameter that some job reads.

  Raises:
    ConfigurationError: if a name or parameter is unknown (names the nearest
      known one), a macro has no value, or nothing reads a binding or macro.
  """
  targets = targets_of(jobs)
  for binding in bindings:
    _check_name(binding, targets)
  macros = {b.name for b in bindings if not b.field}
  parts = [(b, part) for b in bindings for part in _parts(b.value)]
  used = {p.name for _, p in parts if isinstance(p, Macro)}
  for binding, part in parts:
    if isinstance(part, Reference):
      _check_reference(binding, part, targets, jobs)
    elif not part.is_required and part.name not in macros:
      raise ConfigurationError(
        f"{binding.where}: %{part.name} has no value"
        f"{nearest(part.name, macros)}. Set it with --gin.{part.name}=VALUE"
      )
  for binding in bindings:
    if binding.is_shared or binding.field or binding.name in used:
      continue
    in_use = sorted(macros & used)
    raise ConfigurationError(
      f"{binding.where}: nothing uses the macro {binding.name}"
      f"{nearest(binding.name, in_use)}. Macros in use: "
      f"{', '.join(in_use) or 'none'}"
    )
  _check_read(bindings, jobs)


def _check_name(binding: Binding, targets: Targets) -> None:
  if not binding.field:
    return
  if binding.name not in targets:
    raise ConfigurationError(
      f"{binding.where}: no job or config is called {binding.name!r}"
      f"{nearest(binding.name, targets)}"
    )
  names = parameters_of(targets[binding.name])
  if binding.field in names:
    return
  if binding.field == "output_dir":
    raise ConfigurationError(
      f"{binding.where}: {binding.name}.output_dir is set by --output_dir"
    )
  raise ConfigurationError(
    f"{binding.where}: {binding.name} has no parameter {binding.field!r}"
    f"{nearest(binding.field, names)}. It has {', '.join(names)}"
  )


def _check_reference(
  binding: Binding, part: Reference, targets: Targets, jobs: Targets
) -> None:
  if part.name not in targets or part.name in jobs:
    configs = [name for name in targets if name not in jobs]
    raise ConfigurationError(
      f"{binding.where}: no config is called {part.name!r}"
      f"{nearest(part.name, configs)}"
    )
  if not part.is_called:
    raise ConfigurationError(
      f"{binding.where}: @{part.name} is a class; write @{part.name}() for an "
      "instance"
    )


def _check_read(bindings: Sequence[Binding], jobs: Targets) -> None:
  """Checks that every binding is reachable from a job by references.

  Overridden bindings count too: the lines of a file about a config stay valid
  if the command line replaces the config.
  """
  reached = set()
  queue = [("", job) for job in jobs]
  while queue:
    scope, name = queue.pop()
    if (scope, name) in reached:
      continue
    reached.add((scope, name))
    values = [
      b.value
      for b in bindings
      if b.field and b.name == name and _reaches(b.scope, scope)
    ]
    for part in _parts(values):
      queue += [
        (p.scope or scope, p.name) for p in _expand(part, bindings, set())
      ]
  for binding in bindings:
    if binding.is_shared or not binding.field:
      continue
    if not any(
      name == binding.name and _reaches(binding.scope, scope)
      for scope, name in reached
    ):
      full = "/".join(filter(None, [binding.scope, binding.name]))
      raise ConfigurationError(
        f"{binding.where}: nothing reads {full}.{binding.field}, because no "
        f"parameter of a job is @{full}()"
      )


def _expand(part: Any, bindings: Sequence[Binding], seen: set[str]):
  """Yields the references behind a macro or reference."""
  if isinstance(part, Reference):
    yield part
  elif part.name not in seen:
    seen.add(part.name)
    for binding in bindings:
      if not binding.field and binding.name == part.name:
        for inner in _parts(binding.value):
          yield from _expand(inner, bindings, seen)


class _Builder:
  """Evaluates the bindings of one job; collects missing and wrong values."""

  def __init__(self, bindings: Sequence[Binding], targets: Targets):
    self._targets = targets
    self._macros = {b.name: b for b in bindings if not b.field}
    self._values = collections.defaultdict(dict)
    for b in bindings:
      if b.field:
        self._values[b.scope, b.name][b.field] = b
    self.missing: list[Missing] = []
    self.wrong: list[str] = []

  def arguments(self, scope: str, name: str) -> dict[str, Any]:
    """Returns a target's arguments in a scope; notes and omits missing ones."""
    bound: dict[str, Binding] = {}
    parts = scope.split("/") if scope else []
    for end in range(len(parts) + 1):
      bound |= self._values.get(("/".join(parts[:end]), name), {})
    target = self._targets[name]
    hints = typing.get_type_hints(target)
    result = {}
    for field, parameter in parameters_of(target).items():
      flag = "/".join(filter(None, [scope, name])) + f".{field}"
      if field in bound:
        value = self._value(bound[field].value, scope, flag, ())
        if value is not self:
          result[field] = self._checked(
            value, hints.get(field, Any), flag, bound[field].where
          )
      elif parameter.default is inspect.Parameter.empty:
        self._note(flag, f"{flag} is required", hints.get(field, Any))
    return result

  def _note(self, flag: str, reason: str, hint: Any = Any) -> None:
    if dataclasses.is_dataclass(hint):
      reason += f": bind {flag} = @{hint.__name__}() in a gin file"
      self.missing.append(Missing(flag=flag, reason=reason))
      return
    reason += f": add --gin.{flag}=VALUE"
    if all(m.flag != flag for m in self.missing):
      self.missing.append(Missing(flag=flag, reason=reason))

  def _value(self, value: Any, scope: str, flag: str, seen: tuple) -> Any:
    """Evaluates a value; returns the builder itself if a part is missing."""
    if isinstance(value, Macro):
      if value.is_required:
        name = seen[-1] if seen else flag
        self._note(name, f"{flag} is required")
        return self
      if value.name in seen:
        raise ConfigurationError(
          f"{self._macros[value.name].where}: %{value.name} refers to itself; "
          "give it a value"
        )
      inner = self._macros[value.name].value
      return self._value(inner, scope, flag, (*seen, value.name))
    if isinstance(value, Reference):
      return self._make(value.scope or scope, value.name, flag)
    if isinstance(value, Mapping):
      items = [self._value(list(p), scope, flag, seen) for p in value.items()]
      return self if any(i is self for i in items) else dict(items)
    if isinstance(value, (list, tuple)):
      items = [self._value(v, scope, flag, seen) for v in value]
      return self if any(i is self for i in items) else type(value)(items)
    return value

  def _make(self, scope: str, name: str, flag: str) -> Any:
    problems = len(self.missing) + len(self.wrong)
    arguments = self.arguments(scope, name)
    if len(self.missing) + len(self.wrong) > problems:
      return self
    try:
      return self._targets[name](**arguments)
    except (ValueError, TypeError) as error:
      self.wrong.append(f"{flag} = @{name}(): {error}")
      return self

  def _checked(self, value: Any, hint: Any, flag: str, where: str) -> Any:
    if not accepts(value, hint):
      kind = getattr(hint, "__name__", None)
      kind = kind if isinstance(hint, type) and kind else str(hint)
      self.wrong.append(
        f"{where}: {flag} is {value!r}, which is {type(value).__name__}; it "
        f"must be {kind}"
      )
    if typing.get_origin(hint) is tuple and isinstance(value, list):
      return tuple(value)
    return value


def accepts(value: Any, hint: Any) -> bool:
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
  if hint in (None, type(None)):
    return value is None
  if hint is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if origin is None and isinstance(hint, type) and hint is not Any:
    return isinstance(value, hint)
  return True


def missing(
  job: str, bindings: Sequence[Binding], jobs: Targets
) -> list[Missing]:
  """Returns the required values of a job that have no binding."""
  builder = _Builder(bindings, targets_of(jobs))
  builder.arguments("", job)
  return builder.missing


def resolve(
  job: str, bindings: Sequence[Binding], jobs: Targets
) -> dict[str, Any]:
  """Returns the keyword arguments of a job; later bindings override earlier.

  Raises:
    ConfigurationError: see `check`; or if a required value is missing, a value
      has the wrong type, or a config rejects its fields. The message lists all
      such problems.
  """
  check(bindings, jobs)
  builder = _Builder(bindings, targets_of(jobs))
  arguments = builder.arguments("", job)
  problems = builder.wrong + [m.reason for m in builder.missing]
  if problems:
    raise ConfigurationError("\n".join(problems))
  return arguments
