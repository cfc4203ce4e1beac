# SPDX-License-Identifier: Apache-2.0
"""Reads gin files and flags into bindings. The only module that imports gin."""

from __future__ import annotations

import pathlib
import re
import tokenize
from typing import Iterator, Mapping, NamedTuple, Sequence

from gin import config_parser

from rlaif_jax.cli import command_line
from rlaif_jax.cli import configuration
from rlaif_jax.cli import imported_parts
from rlaif_jax.core import parsing

_PACKAGE = pathlib.Path(__file__).parents[1]


class _Values(config_parser.ParserDelegate):
  """Converts gin's references and macros into `configuration` records."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    scope, _, name = scoped_configurable_name.rpartition("/")
    return configuration.Reference(scope=scope, name=name, is_called=evaluate)

  def macro(self, macro_name):
    return configuration.Macro(name=macro_name)


def shipped_configs() -> pathlib.Path:
  """Returns the `gin_configs` folder of the wheel or of the checkout."""
  installed = _PACKAGE / "gin_configs"
  return installed if installed.is_dir() else _PACKAGE.parent / "gin_configs"


def find(
  path: str, search_paths: Sequence[str] = (), *, included_by: str = ""
) -> pathlib.Path:
  """Finds a gin file.

  Args:
    path: relative to the current directory, or else to a search path, or else
      to the shipped recipes, as gin_configs/recipes/NAME.gin or as
      recipes/NAME.gin.
    search_paths: folders of --gin_search_paths, in order.
    included_by: the file with the include statement, for the error message.

  Raises:
    UsageError: if there is no such file.
  """
  configs = shipped_configs()
  folders = [pathlib.Path(), *map(pathlib.Path, search_paths)]
  for folder in (*folders, configs.parent, configs):
    if (folder / path).is_file():
      return folder / path
  by = f"; {included_by} includes it" if included_by else ""
  others = "".join(f"{folder}, " for folder in search_paths)
  raise command_line.UsageError(
    f"--gin_file={path} does not exist in the current directory, {others}or in "
    f"{configs}{by}; recipes are named recipes/NAME.gin, and "
    "--gin_search_paths=DIR,DIR adds folders"
  )


def read(
  path: str,
  search_paths: Sequence[str] = (),
  *,
  parts: imported_parts.ImportedParts | None = None,
  including: tuple[str, ...] = (),
) -> Iterator[configuration.Binding]:
  """Yields the bindings of a file and its includes, in order.

  Args:
    path: see `find`, like search_paths.
    search_paths: folders of --gin_search_paths.
    parts: loads what the files import; None refuses imports.
    including: the chain of files that include this one.

  Raises:
    UsageError: if a file is missing, includes itself or has bad syntax, an
      import fails, or an include reverts a macro of the file that includes it.
  """
  if path in including:
    raise command_line.UsageError(
      f"{path} includes itself: {' -> '.join(including)}"
    )
  parts = parts or imported_parts.ImportedParts(is_allowed=False)
  own: dict[str, configuration.Binding] = {}
  for statement in _parse(path, search_paths, "".join(including[-1:])):
    where = f"{path}:{statement.location.line_num}"
    if isinstance(statement, config_parser.IncludeStatement):
      for binding in read(
        statement.filename,
        search_paths,
        parts=parts,
        including=(*including, path),
      ):
        _check_keeps(own, binding)
        yield binding
    elif isinstance(statement, config_parser.ImportStatement):
      if statement.module == "__gin__.dynamic_registration":
        continue  # Imported functions need no registration here.
      is_plain = not statement.is_from and not statement.alias
      bound = statement.module if is_plain else statement.bound_name()
      parts.load(statement.module, bound, where)
    elif isinstance(statement, config_parser.BindingStatement):
      key = statement.selector
      key += f".{statement.arg_name}" if statement.arg_name else ""
      key = f"{statement.scope}/{key}" if statement.scope else key
      binding = _binding(key, statement.value, where, bool(including))
      if not binding.field:
        own[binding.name] = binding
      yield binding


def _parse(
  path: str, search_paths: Sequence[str], included_by: str
) -> list[NamedTuple]:
  """Returns gin's statements of a file."""
  found = find(path, search_paths, included_by=included_by)
  try:
    with parsing.naming(path), open(found, encoding="utf-8") as file:
      return list(config_parser.ConfigParser(file, _Values()))
  except SyntaxError as error:
    raise command_line.UsageError(
      f"{path}:{error.lineno}: {error.msg}"
    ) from error
  except tokenize.TokenError as error:
    raise command_line.UsageError(
      f"{path}:{error.args[1][0]}: {error.args[0]}"
    ) from error


def _check_keeps(
  own: Mapping[str, configuration.Binding], binding: configuration.Binding
) -> None:
  """Checks that an included macro does not revert one of the including file."""
  before = own.get(binding.name)
  if binding.field or before is None or before.value == binding.value:
    return
  raise command_line.UsageError(
    f"{binding.where}: the include reverts the macro {binding.name}, which "
    f"{before.where} has set; move the include above that line"
  )


def read_flag(key: str, value: str) -> configuration.Binding:
  """Returns the binding of --gin.KEY=VALUE.

  A value that is no Python literal, reference or macro is a string.

  Raises:
    UsageError: if the key is no name, or a reference or macro is malformed.
  """
  where = f"--gin.{key}"
  if not re.fullmatch(r"([A-Za-z_]\w*/)*[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key):
    raise command_line.UsageError(
      f"{where}: {key!r} is no name; write --gin.NAME=VALUE"
    )
  parsed: object = value
  try:
    parser = config_parser.ConfigParser(value, _Values())
    candidate = parser.parse_value()
    if parser.current_token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
      parsed = candidate
  except (SyntaxError, tokenize.TokenError) as error:
    if value.startswith(("@", "%")):
      raise command_line.UsageError(
        f"{where}: cannot read {value!r}: {error}"
      ) from error
  return _binding(key, parsed, where)


def read_command(
  command: command_line.Command,
  parts: imported_parts.ImportedParts | None = None,
) -> list[configuration.Binding]:
  """Returns all bindings of a command, those of its flags last; see `read`."""
  bindings: list[configuration.Binding] = []
  for path in command.gin_files:
    bindings += read(path, command.gin_search_paths, parts=parts)
  return bindings + [read_flag(*pair) for pair in command.bindings]


def _binding(
  key: str, value: object, where: str, is_shared: bool = False
) -> configuration.Binding:
  scope, name, field = config_parser.parse_binding_key(key)
  return configuration.Binding(
    scope=scope,
    name=name,
    field=field,
    value=value,
    where=where,
    is_shared=is_shared,
  )
