# SPDX-License-Identifier: Apache-2.0
"""A user's own functions and classes, named in gin files.

A gin file imports modules as Python does. Their public functions and classes
are then configurables, without a decorator:

    import my_package.rewards
    ScorerConfig.reward = @my_package.rewards.brevity
    my_package.rewards.brevity.weight = 0.5

`rewards.brevity` and `brevity` name the same function if only one imported
module defines it. An import runs the module's code; `--safe_gin` refuses it.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import types
from typing import Callable, Iterable, Iterator, Mapping

from rlaif_jax.cli import command_line
from rlaif_jax.cli import configuration
from rlaif_jax.core import inputs

# A value of one of these types is written into config.gin as it is.
_LITERAL = (type(None), bool, int, float, str, bytes, tuple, list, dict)

# What the code of a module raises.
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError)
_FAILURES += (NameError, OSError, RuntimeError, SyntaxError)
_FAILURES += (TypeError, ValueError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
  """The reference that a value comes from.

  Fields:
    value: the value, which keeps its `id` in use.
    name: full name of the function or class.
    arguments: its bound arguments.
    is_called: whether the value is the result of a call.
  """

  value: object
  name: str
  arguments: Mapping[str, object]
  is_called: bool


class ImportedParts:
  """The modules that gin files import, and the parts that bindings name.

  Args:
    is_allowed: whether imports are allowed.

  Attributes:
    targets: the parts by full name, such as my_package.rewards.brevity.
  """

  def __init__(self, *, is_allowed: bool = True):
    self._is_allowed = is_allowed
    self._bound: dict[str, types.ModuleType] = {}
    self._origins: dict[int, Origin] = {}
    self.targets: dict[str, Callable[..., object]] = {}

  def load(self, module: str, bound: str, where: str) -> None:
    """Imports a module and prints its file.

    Args:
      module: dotted name.
      bound: name by which the gin file calls it.
      where: file and line of the import statement.

    Raises:
      UsageError: if imports are refused, or the module cannot be imported.
    """
    if not self._is_allowed:
      raise command_line.UsageError(
        f"{where}: --safe_gin refuses to import {module}, since an import runs "
        "its code; read the module, then leave out --safe_gin"
      )
    if os.getcwd() not in sys.path:  # `rlaif-jax` is not `python -m`.
      sys.path.append(os.getcwd())
    try:
      found = importlib.import_module(module)
    except ImportError as error:
      raise command_line.UsageError(
        f"{where}: cannot import {module}: {error}. Modules are searched in "
        "the current directory, in PYTHONPATH and among installed packages"
      ) from error
    except _FAILURES as error:
      raise command_line.UsageError(
        f"{where}: {module} fails when it is imported: "
        f"{type(error).__name__}: {error}"
      ) from error
    if bound not in self._bound:
      file = getattr(found, "__file__", None) or "built in"
      print(f"imported {module} ({file})", file=sys.stderr)
    self._bound[bound] = found

  @property
  def modules(self) -> list[str]:
    """The names of the imported modules."""
    return sorted({module.__name__ for module in self._bound.values()})

  def note_files(self) -> None:
    """Records the files of the imported modules as inputs of the run."""
    for name in self.modules:
      if file := getattr(sys.modules[name], "__file__", None):
        inputs.note(file)

  def with_full_names(
    self,
    bindings: Iterable[configuration.Binding],
    jobs: configuration.Targets,
  ) -> list[configuration.Binding]:
    """Returns bindings that call imported parts by their full names.

    Fills `targets`. A name of a job or config of the library keeps its
    meaning; unknown names are left to `configuration.check`.

    Raises:
      UsageError: if a name fits several parts; lists them.
    """
    bindings = list(bindings)
    if not self._bound:
      return bindings
    ours = configuration.targets_of(jobs)

    def full(name: str, where: str) -> str:
      return name if name in ours else self._find(name, where)

    def value(part: object, where: str) -> object:
      if isinstance(part, configuration.Reference):
        return dataclasses.replace(part, name=full(part.name, where))
      if isinstance(part, Mapping):
        return {value(k, where): value(v, where) for k, v in part.items()}
      if isinstance(part, (list, tuple)):
        return type(part)(value(item, where) for item in part)
      return part

    return [
      dataclasses.replace(
        b,
        name=full(b.name, b.where) if b.field else b.name,
        value=value(b.value, b.where),
      )
      for b in bindings
    ]

  def _find(self, name: str, where: str) -> str:
    """Returns the full name of a part, or the name itself if there is none."""
    found = dict(self._candidates(name))
    if len({id(part) for part in found.values()}) > 1:
      raise command_line.UsageError(
        f"{where}: {name} is one of {', '.join(sorted(found))}; write the one "
        "that you mean"
      )
    for full, part in found.items():
      for known, target in self.targets.items():
        if target is part:
          return known
      self.targets[full] = part
      return full
    return name

  def _candidates(
    self, name: str
  ) -> Iterator[tuple[str, Callable[..., object]]]:
    """Yields (full name, part) of each part that a name may stand for."""
    for bound, module in self._bound.items():
      if name.startswith(f"{bound}."):
        path = name[len(bound) + 1 :]
        part: object = module
        for attribute in path.split("."):
          part = getattr(part, attribute, None)
        if callable(part):
          yield f"{module.__name__}.{path}", part
    for module in self._bound.values():
      for attribute, part in vars(module).items():
        full = f"{module.__name__}.{attribute}"
        own = getattr(part, "__module__", "") == module.__name__
        if callable(part) and own and not attribute.startswith("_"):
          if f".{full}".endswith(f".{name}"):
            yield full, part

  def note_origin(
    self,
    value: object,
    name: str,
    arguments: Mapping[str, object],
    *,
    is_called: bool,
  ) -> None:
    """Keeps which reference a value comes from, so that it can be written."""
    if name in self.targets and type(value) not in _LITERAL:
      self._origins[id(value)] = Origin(
        value=value, name=name, arguments=arguments, is_called=is_called
      )

  def origin(self, value: object) -> Origin | None:
    """Returns the reference that a value comes from, or None."""
    found = self._origins.get(id(value))
    return found if found is not None and found.value is value else None
