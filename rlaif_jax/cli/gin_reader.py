# SPDX-License-Identifier: Apache-2.0
"""Reads gin files and flags into bindings. The only module that imports gin."""

from __future__ import annotations

import pathlib
import re
import tokenize
from typing import Iterator

from gin import config_parser

from rlaif_jax.cli import command_line
from rlaif_jax.cli import configuration
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


def find(path: str, included_by: str = "") -> pathlib.Path:
  """Finds a gin file.

  Args:
    path: relative to the current directory, or else to the shipped recipes,
      as gin_configs/recipes/NAME.gin or as recipes/NAME.gin.
    included_by: the file with the include statement, for the error message.

  Raises:
    UsageError: if there is no such file.
  """
  configs = shipped_configs()
  for candidate in (pathlib.Path(path), configs.parent / path, configs / path):
    if candidate.is_file():
      return candidate
  by = f"; {included_by} includes it" if included_by else ""
  raise command_line.UsageError(
    f"--gin_file={path} does not exist in the current directory or in "
    f"{configs}{by}; recipes are named recipes/NAME.gin"
  )


def read(
  path: str, including: tuple[str, ...] = ()
) -> Iterator[configuration.Binding]:
  """Yields the bindings of a file and its includes, in order.

  Args:
    path: see `find`.
    including: the chain of files that include this one.

  Raises:
    UsageError: if a file is missing, includes itself or has bad syntax.
  """
  if path in including:
    raise command_line.UsageError(
      f"{path} includes itself: {' -> '.join(including)}"
    )
  found = find(path, "".join(including[-1:]))
  try:
    with parsing.naming(path), open(found, encoding="utf-8") as file:
      statements = list(config_parser.ConfigParser(file, _Values()))
  except SyntaxError as error:
    raise command_line.UsageError(
      f"{path}:{error.lineno}: {error.msg}"
    ) from error
  except tokenize.TokenError as error:
    raise command_line.UsageError(
      f"{path}:{error.args[1][0]}: {error.args[0]}"
    ) from error
  for statement in statements:
    where = f"{path}:{statement.location.line_num}"
    if isinstance(statement, config_parser.IncludeStatement):
      yield from read(statement.filename, (*including, path))
    elif isinstance(statement, config_parser.ImportStatement):
      raise command_line.UsageError(
        f"{where}: import statements are not supported; delete the line (jobs "
        "and configs are known by their names)"
      )
    elif isinstance(statement, config_parser.BindingStatement):
      key = statement.selector
      key += f".{statement.arg_name}" if statement.arg_name else ""
      key = f"{statement.scope}/{key}" if statement.scope else key
      yield _binding(key, statement.value, where, bool(including))


def read_flag(key: str, value: str) -> configuration.Binding:
  """Returns the binding of --gin.KEY=VALUE.

  A value that is no Python literal, reference or macro is a string.

  Raises:
    UsageError: if the key is no name, or a reference or macro is malformed.
  """
  where = f"--gin.{key}"
  if not re.fullmatch(r"([A-Za-z_]\w*/)*[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", key):
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
) -> list[configuration.Binding]:
  """Returns all bindings of a command, those of its flags last."""
  bindings: list[configuration.Binding] = []
  for path in command.gin_files:
    bindings += read(path)
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
