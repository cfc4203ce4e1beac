# SPDX-License-Identifier: Apache-2.0
"""HTTP server of the page on which people rate responses.

    GET  /?key=KEY            the page (rating/pages/rate.html)
    GET  /view?rater=NAME     the rater's first unfinished item
    POST /annotate            a click, written to disk before the reply
    POST /reopen              reopens the last finished item

The page takes the key from its address; the other calls take it from a header,
which scripts of other sites cannot send. Texts are sent as JSON and displayed
as plain text. The names of the policies are never sent. Connections, the time
of a request and its size are bounded, and the Host header must name this
machine, so that a name of another site cannot be pointed at the page.
"""

from __future__ import annotations

import dataclasses
import hmac
import http.server
import importlib.resources
import json
import os
import pathlib
import secrets
import socket
import urllib.parse
from http import HTTPStatus
from typing import Callable, TypeVar

from rlaif_jax.core import records
from rlaif_jax.rating import annotations
from rlaif_jax.rating import bounded_server

T = TypeVar("T")

KEY_HEADER = "X-Rating-Key"

QUESTIONS = {
  "rank": "Rank the responses, the best first.",
  "harmful": "Mark the responses that could do harm.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerConfig:
  """Address of the page.

  Fields:
    host: address to bind to.
    port: port; 0 chooses a free one.
    allow_remote: allow a host that other machines can reach. They need the key
      in the printed address; nothing is encrypted.
  """

  host: str = "127.0.0.1"
  port: int = 8321
  allow_remote: bool = False

  def check(self) -> None:
    """Checks that other machines cannot reach the page unless allowed.

    Raises:
      ValueError: they can.
    """
    if not bounded_server.is_loopback(self.host) and not self.allow_remote:
      raise ValueError(
        f"ServerConfig.host is {self.host!r}, which other machines can reach; "
        "to allow this, set ServerConfig.allow_remote=True (nothing is "
        "encrypted; an SSH tunnel to 127.0.0.1 is safer)"
      )


LOCAL = ServerConfig()


def read_key(path: pathlib.Path) -> str:
  """Reads the key of a run; creates it, readable by its owner only."""
  if not path.exists():
    f = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(f, secrets.token_urlsafe(24).encode("ascii"))
    os.close(f)
  return path.read_text("ascii")


def address(server: http.server.ThreadingHTTPServer) -> str:
  """Returns the URL of the page with its key."""
  host, port = server.server_address[:2]
  host = f"[{host}]" if ":" in host else host
  query = urllib.parse.urlencode({"key": server.RequestHandlerClass.key})
  return f"http://{host}:{port}/?{query}"


def make_server(
  log: annotations.AnnotationLog,
  config: ServerConfig,
  *,
  key: str,
  question: str = "",
) -> http.server.ThreadingHTTPServer:
  """Returns a server that listens; call `serve_forever` to handle requests.

  Args:
    log: log of the annotations.
    config: address of the page.
    key: key that requests must have.
    question: text above the context; "" uses `QUESTIONS`.

  Raises:
    OSError: the address is in use or not available.
  """

  class Handler(_Handler):
    pass

  class Server(bounded_server.BoundedServer):
    address_family = socket.AF_INET6 if ":" in config.host else socket.AF_INET

  Handler.log = log
  Handler.key = key
  Handler.question = question or QUESTIONS[log.mode]
  Handler.remote = not bounded_server.is_loopback(config.host)
  names = [config.host]
  if Handler.remote:
    names += [socket.gethostname(), socket.getfqdn()]
  Handler.names = frozenset(name.lower() for name in names)
  return Server((config.host, config.port), Handler)


class _Handler(bounded_server.BoundedHandler):
  """Handles a request; subclasses define the log, key and question."""

  log: annotations.AnnotationLog
  key: str
  question: str

  def do_GET(self) -> None:
    try:
      url = urllib.parse.urlsplit(self.path)
      query = urllib.parse.parse_qs(url.query)
    except ValueError as error:
      self.send_problem(
        HTTPStatus.BAD_REQUEST, f"the address is invalid: {error}"
      )
      return
    if url.path == "/":
      self._page(query.get("key", [""])[0])
    elif url.path == "/view":
      rater = query.get("rater", [""])[0]
      self._reply(lambda: self._view(self.log.view(rater)))
    else:
      self.send_problem(HTTPStatus.NOT_FOUND, f"{url.path:.80} does not exist")

  def do_POST(self) -> None:
    body = self.read_body()
    if body is None:
      return
    if self.path == "/annotate":
      self._reply(lambda: self._annotate(json.loads(body)))
    elif self.path == "/reopen":
      self._reply(lambda: self._reopen(json.loads(body)))
    else:
      self.send_problem(HTTPStatus.NOT_FOUND, f"{self.path:.80} does not exist")

  def _has_key(self, key: str) -> bool:
    return hmac.compare_digest(key.encode("utf-8"), self.key.encode("utf-8"))

  def _page(self, key: str) -> None:
    if not self._has_key(key):
      self.send_problem(
        HTTPStatus.FORBIDDEN,
        "open the complete address that the job printed, including the key",
      )
      return
    nonce = secrets.token_urlsafe(16)
    file = importlib.resources.files("rlaif_jax.rating") / "pages/rate.html"
    page = file.read_text("utf-8").replace("{{nonce}}", nonce)
    policy = (
      f"default-src 'none'; script-src 'nonce-{nonce}'; "
      f"style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    self.send_bytes(
      HTTPStatus.OK,
      page.encode("utf-8"),
      "text/html; charset=utf-8",
      {"Content-Security-Policy": policy},
    )

  def _reply(self, compute: Callable[[], records.Row]) -> None:
    """Sends the result of `compute`, or its error."""
    if not self._has_key(self.headers.get(KEY_HEADER, "")):
      self.send_problem(
        HTTPStatus.FORBIDDEN, f"the header {KEY_HEADER} is wrong"
      )
      return
    try:
      row = compute()
    except annotations.ConflictError as error:
      self.send_problem(HTTPStatus.CONFLICT, str(error))
    except (
      ValueError,
      LookupError,
      TypeError,
      OverflowError,
      RecursionError,
    ) as error:
      self.send_problem(
        HTTPStatus.BAD_REQUEST, f"{type(error).__name__}: {error}"
      )
    except OSError as error:  # such as a full disk
      self.send_problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, f"not saved: {error.strerror}"
      )
    else:
      self.send_json(HTTPStatus.OK, row)

  def _view(self, view: annotations.View | None) -> records.Row:
    """Returns what the page displays, without the names of the policies."""
    if view is None:
      return {"done": True}
    texts = dict(zip(view.item.names, view.item.responses, strict=True))
    return {
      "done": False,
      "mode": self.log.mode,
      "question": self.question,
      "item": view.item.id,
      "context": view.item.context,
      "responses": [texts[name] for name in view.shown],
      "picks": [view.shown.index(name) for name in view.annotation.picks],
      "version": view.annotation.version,
      "number": view.number,
      "count": view.count,
    }

  def _annotate(self, row: records.Row) -> records.Row:
    rater, final = _typed(row, "rater", str), _typed(row, "final", bool)
    picks = _typed(row, "picks", list)
    if not all(type(place) is int for place in picks):
      raise ValueError(f"picks are {picks!r:.80}; they must be integers")
    annotation = self.log.record(
      rater,
      _typed(row, "item", str),
      picks,
      final=final,
      version=_typed(row, "version", int),
    )
    if final:
      return self._view(self.log.view(rater))
    return {"version": annotation.version}

  def _reopen(self, row: records.Row) -> records.Row:
    return self._view(self.log.reopen(_typed(row, "rater", str)))


def _typed(row: object, name: str, kind: type[T]) -> T:
  """Returns a field of a request.

  Raises:
    ValueError: the field is missing or has another type.
  """
  value = row.get(name) if isinstance(row, dict) else None
  if type(value) is not kind:
    raise ValueError(f"{name} is {value!r:.80}; it must be {kind.__name__}")
  return value
