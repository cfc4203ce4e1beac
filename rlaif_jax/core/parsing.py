# SPDX-License-Identifier: Apache-2.0
"""Reads what others wrote: damage becomes a ValueError that names the file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import re
import struct
from typing import Callable, Iterator, Mapping, NoReturn, TypeVar
import zlib

from rlaif_jax.core import inputs
from rlaif_jax.core import validation

T = TypeVar("T")

# What parsers and the use of their results raise for damaged input.
ERRORS = (
  *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError),
  *(MemoryError, OSError, RuntimeError, TypeError, ValueError),
  *(struct.error, zlib.error),
)
# An escaped or encoded half of a surrogate pair, or a whole pair.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Control characters (terminal escapes among them), line separators and signs
# that reverse the direction of a text; newline and tab are kept.
_CONTROL = re.compile(
  "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
  "\ud800-\udfff]"
)


def reason(error: BaseException) -> str:
  """Returns what an error says, for people."""
  if isinstance(error, RecursionError):
    return "it is nested too deeply"
  if isinstance(error, MemoryError):
    return f"it needs more memory than there is: {error}".rstrip(": ")
  if isinstance(error, KeyError):
    return f"{error} is missing"
  if isinstance(error, (ValueError, OSError)):
    return str(error)
  return f"{type(error).__name__}: {error}".rstrip(": ")


def _names(error: Exception, path: str | os.PathLike) -> bool:
  """Returns whether an error names a file, or another one of its folder."""
  folder = os.path.dirname(path)
  return str(path) in str(error) or bool(folder) and f"{folder}/" in str(error)


@contextlib.contextmanager
def naming(path: str | os.PathLike, *more: type[Exception]) -> Iterator[None]:
  """Turns errors about the content of a file into ValueErrors that name it.

  An error that names it already is raised as it is.

  Args:
    path: the file, or the folder of the files that are read.
    *more: further types of errors, of the library that parses the file.
  """
  try:
    yield
  except (*ERRORS, *more) as error:
    if isinstance(error, (ValueError, OSError)) and _names(error, path):
      raise
    raise ValueError(f"{path}: {reason(error)}") from error


def attempt(
  function: Callable[..., T], *arguments: object
) -> tuple[T | None, Exception | None]:
  """Calls a user's function, which may raise anything.

  Returns:
    Its result and None, or None and what it has raised.
  """
  try:
    return function(*arguments), None
  except Exception as error:
    return None, error


@contextlib.contextmanager
def panics() -> Iterator[None]:
  """Turns the panic of a parser written in Rust into a ValueError.

  It is no subclass of Exception, and its class cannot be imported.
  """
  try:
    yield
  except BaseException as error:
    if type(error).__name__ != "PanicException":
      raise
    raise ValueError(f"its parser failed: {error}") from None


def _refuse(constant: str) -> NoReturn:
  raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
  number = float(text)
  if number in (float("inf"), float("-inf")):
    raise ValueError(f"the number {text:.40} is too large")
  return number


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
# Of results of versions that wrote NaN.
_LENIENT = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)


def json_value(data: bytes | str, *, nan_is_null: bool = False) -> object:
  """Returns the value of a JSON text.

  Args:
    data: the text.
    nan_is_null: reads NaN and Infinity, which are no JSON, as None.

  Raises:
    ValueError: it is no JSON, is no Unicode, is nested too deeply, or has a
      number that is not finite.
  """
  try:
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    value = (_LENIENT if nan_is_null else _DECODER).decode(text)
    if _SURROGATE.search(text):  # Pairs are characters; halves are not.
      json.dumps(value, ensure_ascii=False).encode("utf-8")
  except json.JSONDecodeError as error:
    raise ValueError(f"it is no JSON: {error}") from None
  except UnicodeError as error:
    raise ValueError(f"a text is not Unicode: {error}") from error
  except RecursionError as error:
    raise ValueError(reason(error)) from None
  return value


def read_json(
  path: str | os.PathLike, *, nan_is_null: bool = False
) -> dict[str, object]:
  """Returns the JSON object in a file; see `json_value`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it has no JSON object; names the file.
  """
  path = inputs.note(path)
  with naming(path):
    value = json_value(path.read_bytes(), nan_is_null=nan_is_null)
    if not isinstance(value, dict):
      raise ValueError(f"expected an object, found {value!r:.60}")
  return value


def inside(folder: str | os.PathLike, name: str) -> pathlib.Path:
  """Returns the path of a file in a folder; its links stay in the folder.

  In Hugging Face's cache, links may lead to other files of the same repository
  (models--OWNER--NAME/snapshots/REVISION/FILE -> ../../blobs/HASH).

  Raises:
    ValueError: the file is a link that leads out of the folder; names both.
  """
  path = pathlib.Path(folder, name)
  root, target = pathlib.Path(folder).resolve(), path.resolve()
  cache = (p for p in root.parents if p.name.startswith("models--"))
  if not any(target.is_relative_to(p) for p in (root, *cache)):
    raise ValueError(
      f"{path} is a link to {target}, outside of its folder; copy the file "
      "into the folder"
    )
  return path


def field(
  values: Mapping[str, object],
  key: str,
  kind: type[T],
  default: T | None = None,
) -> T:
  """Returns a value of a JSON object after checking its type.

  Raises:
    ValueError: it has another type, or is missing and there is no default.
  """
  found = values.get(key)
  if found is None:
    if default is None:
      raise ValueError(f"{key} is missing")
    return default
  if expected := validation.expected(kind, found):
    raise ValueError(f"{key} is {found!r:.60}; {expected}")
  return found


def make_logs_printable() -> None:
  """Lets all messages of loggers go through `printable`."""

  def make(*arguments, **keywords):
    record = logging.LogRecord(*arguments, **keywords)
    try:
      record.msg, record.args = printable(record.getMessage()), None
    except (TypeError, ValueError):  # The logger reports it.
      pass
    return record

  logging.setLogRecordFactory(make)


def printable(text: str) -> str:
  """Returns a text with control characters and half characters as escapes.

  Names of tensors, messages of servers and contents of files may have terminal
  escapes; what is printed goes through this function.
  """
  return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)
