# SPDX-License-Identifier: Apache-2.0
"""Renders chat templates in a process with limits of time, memory and output.

A template is a Jinja program that comes with a model. The sandbox of Jinja
keeps it from Python's own objects, but not from loops of any length and texts
of any size. It is therefore run in a process of its own, which is started at
the first template and serves all later ones (0.2 s once, 1 ms each).
"""

from __future__ import annotations

import atexit
import datetime
import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Mapping, NoReturn

if TYPE_CHECKING:
  import jinja2

SECONDS = 10.0  # of one rendering
MEMORY = 256 << 20  # bytes of one rendering, above those of the process
CHARACTERS = 1 << 20  # of the result
_START = 120.0  # seconds to start on a busy machine
# Errors that the expressions of a template can raise.
_ERRORS = (
  *(ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError),
  *(TypeError, ValueError),
)


# ---- In the process.


def _render(request: Mapping[str, object]) -> dict[str, object]:
  """Returns {text}, or {line, message} or {refused} for an invalid template."""
  import jinja2

  pieces, size = [], 0
  try:
    template = _compile(request["template"])
    for piece in template.generate(**request["values"], tools=None):
      pieces.append(piece)
      size += len(piece)
      if size > CHARACTERS:
        return {"refused": f"it writes more than {CHARACTERS} characters"}
    return {"text": "".join(pieces)}
  except jinja2.TemplateSyntaxError as error:
    return {"line": error.lineno, "message": str(error.message)}
  except MemoryError:
    return {"refused": f"it needs more than {MEMORY >> 20} MiB of memory"}
  except (jinja2.TemplateError, *_ERRORS) as error:
    return {"refused": f"{type(error).__name__}: {error}"[:1000]}


def _compile(template: str) -> jinja2.Template:
  import jinja2.ext
  import jinja2.sandbox

  # Blocks leave no empty lines, as authors expect.
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
  )
  environment.filters["tojson"] = _to_json
  environment.globals["raise_exception"] = _raise
  environment.globals["strftime_now"] = _now
  return environment.from_string(template)


def _to_json(
  value: object,
  ensure_ascii: bool = False,
  indent: int | None = None,
  separators: tuple[str, str] | None = None,
  sort_keys: bool = False,
) -> str:
  # The filter of Jinja itself escapes HTML.
  return json.dumps(
    value,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )


def _raise(message: str) -> NoReturn:
  import jinja2

  raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
  return datetime.datetime.now().strftime(pattern)


def _serve() -> None:
  """Renders the requests of standard input, one a line."""
  _compile("")  # Imports Jinja before memory is limited.
  if os.path.exists("/proc/self/statm"):  # Only Linux keeps this limit.
    with open("/proc/self/statm", encoding="ascii") as file:
      used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
  _, most = resource.getrlimit(resource.RLIMIT_CPU)
  _answer({})
  for line in sys.stdin:
    # A process whose parent was killed ends too.
    limit = int(time.process_time() + SECONDS + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, most))
    _answer(_render(json.loads(line)))


def _answer(value: Mapping[str, object]) -> None:
  sys.stdout.write(json.dumps(value) + "\n")
  sys.stdout.flush()


# ---- In the process of the caller.


class _Server:
  """The process, with its pipes."""

  def __init__(self):
    self.pid = os.getpid()
    path = os.pathsep.join(filter(None, sys.path)) or os.curdir
    self._process = subprocess.Popen(
      [sys.executable, "-c", f"from {__name__} import _serve; _serve()"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
      start_new_session=True,  # Ctrl-C stops the job, which stops this.
    )
    atexit.register(self.stop)
    self._read(_START)

  def ask(self, request: Mapping[str, object]) -> dict[str, object]:
    """Returns the answer to a request.

    Raises:
      EOFError: the process ended.
      TimeoutError: there is no answer in time.
    """
    try:
      self._process.stdin.write(json.dumps(request).encode() + b"\n")
      self._process.stdin.flush()
    except BrokenPipeError:
      raise EOFError from None
    return self._read(SECONDS)

  def _read(self, seconds: float) -> dict[str, object]:
    end, data = time.monotonic() + seconds, b""
    while not data.endswith(b"\n"):
      rest = max(0.0, end - time.monotonic())
      if not select.select([self._process.stdout], [], [], rest)[0]:
        raise TimeoutError
      part = os.read(self._process.stdout.fileno(), 1 << 16)
      if not part:
        raise EOFError
      data += part
    return json.loads(data)

  def stop(self) -> None:
    """Ends the process."""
    if self.pid == os.getpid():
      self._process.kill()
      self._process.wait()


_lock = threading.Lock()
_server: _Server | None = None


def render(template: str, values: Mapping[str, object]) -> str:
  """Returns the text of a template for JSON values.

  Raises:
    ValueError: the template is invalid, refuses the values, or needs more than
      SECONDS, MEMORY or CHARACTERS.
  """
  global _server
  with _lock:
    if _server is None or _server.pid != os.getpid():
      _server = _Server()
    try:
      found = _server.ask({"template": template, "values": values})
    except (EOFError, TimeoutError) as error:
      _server.stop()
      _server = None
      what = f"{SECONDS:g} s" if isinstance(error, TimeoutError) else "memory"
      raise ValueError(
        f"the chat template runs over its limit of {what}; it is damaged or "
        "hostile, choose another one"
      ) from error
  if "line" in found:
    raise ValueError(
      f"the chat template is no jinja2, line {found['line']}: "
      f"{found['message']}"
    )
  if "refused" in found:
    roles = [message.get("role") for message in values.get("messages", ())]
    raise ValueError(
      f"the chat template refuses messages with the roles {roles}: "
      f"{found['refused']}"
    )
  return found["text"]
