# SPDX-License-Identifier: Apache-2.0
"""Serves the page on which people rate: one HTML file and three calls.

    GET  /?key=KEY            the page (rating/pages/rate.html)
    GET  /view?rater=NAME     what the rater is to look at
    POST /put                 a click, on disk before the reply
    POST /back                opens the last finished item again

All but the page wants the key in a header, which no other site's script can
send; the page wants it in its address. Texts leave as JSON and are shown as
text; whose they are never leaves.
"""

from __future__ import annotations

import hmac
import http.server
import importlib.resources
import json
import secrets
import socket
import sys
import urllib.parse
from http import HTTPStatus
from typing import Any

from rlaif_jax.rating import annotations

# What a click may take; the texts go the other way only.
MAX_BODY = 65536

KEY_HEADER = "X-Rating-Key"

QUESTIONS = {
  "rank": "Rank the responses, the best first.",
  "harmful": "Mark the responses that could do harm.",
}


def make_server(
  log: annotations.AnswerLog,
  *,
  host: str,
  port: int,
  key: str,
  question: str = "",
) -> http.server.ThreadingHTTPServer:
  """A server that listens; `serve_forever` makes it answer.

  Args:
    log: whose items are rated, and where clicks go.
    host: address to bind to.
    port: 0 takes any that is free.
    key: who does not know it sees nothing.
    question: above the context; "": `QUESTIONS`.

  Raises:
    OSError: the address cannot be had.
  """

  class Handler(_Handler):
    pass

  class Server(_Server):
    address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

  Handler.log = log
  Handler.key = key
  Handler.question = question or QUESTIONS[log.mode]
  return Server((host, port), Handler)


class _Server(http.server.ThreadingHTTPServer):
  """Answers each request in a thread that dies with the process."""

  daemon_threads = True

  def handle_error(self, *where: Any) -> None:
    """A window that was closed in the middle is no error."""
    if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
      super().handle_error(*where)


class _Handler(http.server.BaseHTTPRequestHandler):
  """One request; subclasses have the log, the key and the question."""

  log: annotations.AnswerLog
  key: str
  question: str
  protocol_version = "HTTP/1.1"
  server_version = "rating"
  sys_version = ""
  timeout = 60

  def do_GET(self) -> None:
    url = urllib.parse.urlsplit(self.path)
    query = urllib.parse.parse_qs(url.query)
    if url.path == "/":
      self._page(query.get("key", [""])[0])
    elif url.path == "/view":
      rater = query.get("rater", [""])[0]
      self._reply(lambda: self._view(self.log.view(rater)))
    else:
      self._error(HTTPStatus.NOT_FOUND, f"there is no {url.path:.80}")

  def do_POST(self) -> None:
    body = self._body()
    if body is None:
      return
    if self.path == "/put":
      self._reply(lambda: self._put(json.loads(body)))
    elif self.path == "/back":
      self._reply(lambda: self._back(json.loads(body)))
    else:
      self._error(HTTPStatus.NOT_FOUND, f"there is no {self.path:.80}")

  def log_message(self, *_: Any) -> None:
    """No line for each request: they hold names and the key."""

  def _knows(self, key: str) -> bool:
    return hmac.compare_digest(key.encode("utf-8"), self.key.encode("utf-8"))

  def _page(self, key: str) -> None:
    if not self._knows(key):
      self._error(
        HTTPStatus.FORBIDDEN,
        "open the whole address that the job has printed, with its key",
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
    self._send(
      HTTPStatus.OK,
      page.encode("utf-8"),
      "text/html; charset=utf-8",
      {"Content-Security-Policy": policy},
    )

  def _reply(self, answer) -> None:
    """Sends what `answer` returns, or why it cannot."""
    if not self._knows(self.headers.get(KEY_HEADER, "")):
      self._error(HTTPStatus.FORBIDDEN, f"the header {KEY_HEADER} is wrong")
      return
    try:
      said = answer()
    except annotations.Conflict as error:
      self._error(HTTPStatus.CONFLICT, str(error))
    except (ValueError, KeyError, TypeError) as error:
      self._error(HTTPStatus.BAD_REQUEST, f"{type(error).__name__}: {error}")
    except OSError as error:  # such as a full disk
      self._error(
        HTTPStatus.INTERNAL_SERVER_ERROR, f"not saved: {error.strerror}"
      )
    else:
      self._json(HTTPStatus.OK, said)

  def _view(self, view: annotations.View | None) -> dict[str, Any]:
    """What the page shows; names of policies stay here."""
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
      "picks": [view.shown.index(name) for name in view.answer.picks],
      "version": view.answer.version,
      "number": view.number,
      "count": view.count,
    }

  def _put(self, row: dict[str, Any]) -> dict[str, Any]:
    rater, final = _typed(row, "rater", str), _typed(row, "final", bool)
    picks = _typed(row, "picks", list)
    if not all(type(place) is int for place in picks):
      raise ValueError(f"picks are {picks!r:.80}; they should be numbers")
    answer = self.log.put(
      rater,
      _typed(row, "item", str),
      picks,
      final=final,
      version=_typed(row, "version", int),
    )
    if final:
      return self._view(self.log.view(rater))
    return {"version": answer.version}

  def _back(self, row: dict[str, Any]) -> dict[str, Any]:
    return self._view(self.log.back(_typed(row, "rater", str)))

  def _body(self) -> bytes | None:
    length = self.headers.get("Content-Length", "")
    if not length.isdecimal():
      self._error(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
    elif int(length) > MAX_BODY:
      self._error(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body has {int(length)} bytes; at most {MAX_BODY} are read",
      )
    else:
      return self.rfile.read(int(length))
    return None

  def _error(self, status: HTTPStatus, why: str) -> None:
    self.close_connection = True
    self._json(status, {"error": why})

  def _json(self, status: HTTPStatus, row: dict[str, Any]) -> None:
    # ASCII: half a surrogate pair in a text is no UTF-8.
    data = json.dumps(row).encode("ascii")
    self._send(status, data, "application/json", {})

  def _send(
    self,
    status: HTTPStatus,
    data: bytes,
    kind: str,
    more: dict[str, str],
  ) -> None:
    headers = {
      "Content-Type": kind,
      "Content-Length": str(len(data)),
      "Cache-Control": "no-store",
      "Referrer-Policy": "no-referrer",
      "X-Content-Type-Options": "nosniff",
      **more,
    }
    if self.close_connection:
      headers["Connection"] = "close"
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(data)


def _typed(row: Any, name: str, kind: type) -> Any:
  """A field of a request.

  Raises:
    ValueError: it is missing, or no `kind`.
  """
  value = row.get(name) if isinstance(row, dict) else None
  if type(value) is not kind:
    raise ValueError(f"{name} is {value!r:.80}; it should be {kind.__name__}")
  return value
