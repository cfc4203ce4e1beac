# SPDX-License-Identifier: Apache-2.0
"""Bindings, the config classes that they name, and the checks of those names.

A binding is one line of a gin file or one flag. `cli.resolution` turns checked
bindings into the arguments of a job.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import functools
import inspect
import types
import typing
from typing import Callable, Iterable, Iterator, Mapping, Sequence


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
  value: object
  where: str
  is_shared: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Missing:
  """A required value without binding, and the flag that sets it."""

  flag: str
  reason: str


Targets = Mapping[str, Callable[..., object]]


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns " (did you mean X?)" for the nearest known name, or ""."""
  close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
  return f" (did you mean {close[0]!r}?)" if close else ""


@functools.cache
def dataclasses_of(target: Callable[..., object]) -> tuple[type, ...]:
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
  return tuple(found)


def targets_of(jobs: Targets) -> dict[str, Callable[..., object]]:
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


def parameters_of(
  target: Callable[..., object],
) -> dict[str, inspect.Parameter]:
  """Returns the parameters that a binding may set: all but `output_dir`."""
  parameters = {
    name: parameter
    for name, parameter in inspect.signature(target).parameters.items()
    if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
  }
  if not inspect.isclass(target):
    parameters.pop("output_dir", None)
  return parameters


def takes_any(target: Callable[..., object]) -> bool:
  """Returns whether a target takes keywords of any name (**kwargs)."""
  parameters = inspect.signature(target).parameters.values()
  return any(p.kind is p.VAR_KEYWORD for p in parameters)


@functools.cache
def hints_of(target: Callable[..., object]) -> dict[str, object]:
  """Returns the annotations of a target by parameter.

  They are empty if names in the annotations of a user's function exist for
  type checkers only.
  """
  try:
    return typing.get_type_hints(target)
  except (NameError, TypeError, AttributeError):
    return {}


def config_class(annotation: object, targets: Targets) -> type | None:
  """The config dataclass that an annotation names, or None for anything else.

  A parameter so annotated needs no reference: `Class.field` bindings reach it.
  """
  name = getattr(annotation, "__name__", "")
  is_config = dataclasses.is_dataclass(annotation)
  return annotation if is_config and targets.get(name) is annotation else None


def config_fields(target: Callable[..., object]) -> dict[str, set[str]]:
  """Maps each config field that a job reads once to its `Class.field` names.

  A class that serves several parameters of the job is left out, because its
  parameters are told apart by scopes. Fields of the job's own configs hide
  fields of the same name in configs of those configs.
  """
  depths: dict[type, list[int]] = collections.defaultdict(list)

  def visit(annotation: object, depth: int) -> None:
    if dataclasses.is_dataclass(annotation):
      depths[annotation].append(depth)
      if len(depths[annotation]) == 1:
        for kind in typing.get_type_hints(annotation).values():
          visit(kind, depth + 1)
    for part in typing.get_args(annotation):
      visit(part, depth)

  for kind in typing.get_type_hints(target).values():
    visit(kind, 0)
  found: dict[str, dict[int, set[str]]] = collections.defaultdict(dict)
  for cls, uses in depths.items():
    for field in parameters_of(cls) if len(uses) == 1 else ():
      names = found[field].setdefault(uses[0], set())
      names.add(f"{cls.__name__}.{field}")
  return {field: by_depth[min(by_depth)] for field, by_depth in found.items()}


def parts_of(value: object) -> Iterator[Macro | Reference]:
  """The macros and references in a value, however deep."""
  if isinstance(value, (Macro, Reference)):
    yield value
  elif isinstance(value, Mapping):
    for pair in value.items():
      yield from parts_of(list(pair))
  elif isinstance(value, (list, tuple)):
    for item in value:
      yield from parts_of(item)


def reaches(binding_scope: str, scope: str) -> bool:
  """Whether a binding in one scope holds in another (gin: a prefix does)."""
  return not binding_scope or f"{scope}/".startswith(f"{binding_scope}/")


def check(
  bindings: Sequence[Binding],
  jobs: Targets,
  imported: Targets = types.MappingProxyType({}),
) -> None:
  """Checks that every binding names a parameter that some job reads.

  Args:
    bindings: all bindings of a command.
    jobs: jobs by name.
    imported: parts of a user's modules by full name.

  Raises:
    ConfigurationError: if a name or parameter is unknown (names the nearest
      known one), a macro has no value, or nothing reads a binding or macro.
  """
  targets = targets_of(jobs) | dict(imported)
  for binding in bindings:
    _check_name(binding, targets)
  macros = {b.name for b in bindings if not b.field}
  parts = [(b, part) for b in bindings for part in parts_of(b.value)]
  used = {p.name for _, p in parts if isinstance(p, Macro)}
  for binding, part in parts:
    if isinstance(part, Reference):
      _check_reference(binding, part, targets, jobs, imported)
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
  _check_read(bindings, jobs, targets)


def _check_name(binding: Binding, targets: Targets) -> None:
  if not binding.field:
    return
  if binding.name not in targets:
    raise ConfigurationError(
      f"{binding.where}: no job or config is called {binding.name!r}"
      f"{nearest(binding.name, targets)}; a function of your own needs `import "
      "its.module` in a gin file"
    )
  names = parameters_of(targets[binding.name])
  if binding.field in names or takes_any(targets[binding.name]):
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
  binding: Binding,
  part: Reference,
  targets: Targets,
  jobs: Targets,
  imported: Targets,
) -> None:
  if part.name not in targets or part.name in jobs:
    configs = [name for name in targets if name not in jobs]
    raise ConfigurationError(
      f"{binding.where}: no config is called {part.name!r}"
      f"{nearest(part.name, configs)}; a function of your own needs `import "
      "its.module` in a gin file"
    )
  if not part.is_called and part.name not in imported:
    raise ConfigurationError(
      f"{binding.where}: @{part.name} is a class; write @{part.name}() for an "
      "instance"
    )


def _check_read(
  bindings: Sequence[Binding], jobs: Targets, targets: Targets
) -> None:
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
    bound = [
      b
      for b in bindings
      if b.field and b.name == name and reaches(b.scope, scope)
    ]
    hints = hints_of(targets[name])
    for field in set(parameters_of(targets[name])) - {b.field for b in bound}:
      if cls := config_class(hints.get(field), targets):
        queue.append((scope, cls.__name__))
    for part in parts_of([b.value for b in bound]):
      queue += [
        (p.scope or scope, p.name) for p in _expand(part, bindings, set())
      ]
  for binding in bindings:
    if binding.is_shared or not binding.field:
      continue
    if not any(
      name == binding.name and reaches(binding.scope, scope)
      for scope, name in reached
    ):
      full = "/".join(filter(None, [binding.scope, binding.name]))
      raise ConfigurationError(
        f"{binding.where}: nothing reads {full}.{binding.field}, because no "
        f"parameter of a job is @{full}()"
      )


def _expand(
  part: Macro | Reference, bindings: Sequence[Binding], seen: set[str]
):
  """Yields the references behind a macro or reference."""
  if isinstance(part, Reference):
    yield part
  elif part.name not in seen:
    seen.add(part.name)
    for binding in bindings:
      if not binding.field and binding.name == part.name:
        for inner in parts_of(binding.value):
          yield from _expand(inner, bindings, seen)
