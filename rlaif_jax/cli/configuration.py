# SPDX-License-Identifier: Apache-2.0
"""From bindings to the arguments of a job, with every name accounted for.

Owns what a configuration means (scopes, macros, REQUIRED, references to config
dataclasses) and every complaint about one. Parsing gin text is `main`'s.
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
  """A configuration that cannot run; the message says what to type."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Macro:
  """The value `%NAME`; `gin.REQUIRED` is the one that has to be given."""

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
  """`scope/name.field = value`; a macro `NAME = value` has no field.

  `where` is a file with its line, or the flag, for messages. A shared binding
  comes from an included file, which serves several recipes: its names must
  exist, but not every recipe has to read it.
  """

  scope: str = ""
  name: str
  field: str
  value: Any
  where: str
  is_shared: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Missing:
  """A value that a job needs and nobody gave: the flag that gives it."""

  flag: str
  reason: str


Targets = Mapping[str, Callable[..., Any]]


def nearest(name: str, known: Iterable[str]) -> str:
  """A question about the nearest known name; empty when none is near."""
  close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
  return f" (did you mean {close[0]!r}?)" if close else ""


def dataclasses_of(target: Any) -> list[type]:
  """Dataclasses in the annotations of a callable, and in theirs."""
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
  """Jobs by name, and the config dataclasses that they take by class name.

  Raises:
    ValueError: two classes, or a class and a job, share a name.
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
  """What a binding may set; the output directory is the command line's."""
  parameters = dict(inspect.signature(target).parameters)
  if not inspect.isclass(target):
    parameters.pop("output_dir", None)
  return parameters


def _parts(value: Any) -> Iterator[Any]:
  """The macros and references in a value, however deep."""
  if isinstance(value, (Macro, Reference)):
    yield value
  elif isinstance(value, Mapping):
    for pair in value.items():
      yield from _parts(list(pair))
  elif isinstance(value, (list, tuple)):
    for item in value:
      yield from _parts(item)


def _reaches(binding_scope: str, scope: str) -> bool:
  """Whether a binding in one scope holds in another (gin: a prefix does)."""
  return not binding_scope or f"{scope}/".startswith(f"{binding_scope}/")


def check(bindings: Sequence[Binding], jobs: Targets) -> None:
  """Every binding names something that exists and that some job reads.

  Raises:
    ConfigurationError: an unknown name or parameter (with the nearest known
      one), a macro without value, or a binding or macro that nothing reads.
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
      f"{nearest(binding.name, in_use)}. In use: "
      f"{', '.join(in_use) or 'none'}"
    )
  _check_read(bindings, jobs)


def _check_name(binding: Binding, targets: Targets) -> None:
  if not binding.field:
    return
  if binding.name not in targets:
    raise ConfigurationError(
      f"{binding.where}: nothing is called {binding.name!r}"
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
      f"{binding.where}: @{part.name} is the class; write @{part.name}() for "
      "a config made of its bindings"
    )


def _check_read(bindings: Sequence[Binding], jobs: Targets) -> None:
  """Walks from all jobs; a binding that no walk passes is an error.

  Overridden bindings count as read and as references, so that replacing a
  config on the command line does not orphan the file's lines about it.
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
  """The references behind a macro or reference."""
  if isinstance(part, Reference):
    yield part
  elif part.name not in seen:
    seen.add(part.name)
    for binding in bindings:
      if not binding.field and binding.name == part.name:
        for inner in _parts(binding.value):
          yield from _expand(inner, bindings, seen)


class _Builder:
  """Evaluates bindings for one job; collects what is missing or wrong."""

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
    """Values for a target in a scope; gaps are noted and left out."""
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
    """The value, or the builder itself where there is none."""
    if isinstance(value, Macro):
      if value.is_required:
        name = seen[-1] if seen else flag
        self._note(name, f"{flag} is required")
        return self
      if value.name in seen:
        raise ConfigurationError(
          f"{self._macros[value.name].where}: %{value.name} is defined by "
          "itself; give it a value"
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
      expected = (
        f"use one of {typing.get_args(hint)}"
        if typing.get_origin(hint) is typing.Literal
        else f"which is {type(value).__name__}; it must be {kind}"
      )
      self.wrong.append(f"{where}: {flag} is {value!r}, {expected}")
    if typing.get_origin(hint) is tuple and isinstance(value, list):
      return tuple(value)
    return value


def accepts(value: Any, hint: Any) -> bool:
  """Whether a value fits an annotation; unknown annotations take all."""
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
  """What a job still needs, without running it."""
  builder = _Builder(bindings, targets_of(jobs))
  builder.arguments("", job)
  return builder.missing


def resolve(
  job: str, bindings: Sequence[Binding], jobs: Targets
) -> dict[str, Any]:
  """The keyword arguments of a job; later bindings win over earlier ones.

  Raises:
    ConfigurationError: see `check`; or a required value is missing, a value
      has the wrong type, or a config refuses its fields. All such problems
      are told at once.
  """
  check(bindings, jobs)
  builder = _Builder(bindings, targets_of(jobs))
  arguments = builder.arguments("", job)
  problems = builder.wrong + [m.reason for m in builder.missing]
  if problems:
    raise ConfigurationError("\n".join(problems))
  return arguments
