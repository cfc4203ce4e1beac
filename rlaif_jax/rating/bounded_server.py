# SPDX-License-Identifier: Apache-2.0
"""HTTP server for a few people: bounded connections, time, sizes and hosts.

A request is external input. One that is slow, damaged, too large or meant for
another host gets an error or is cut off, and never holds the server.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import ipaddress
import json
import re
import socket
import sys
import threading
import time
from http import HTTPStatus

from rlaif_jax.core import records

MAX_BODY = 65536  # bytes of a request
MAX_CONNECTIONS = 128  # a browser keeps up to six
# From the end of a response to the last byte of the next request.
REQUEST_SECONDS = 30.0


def is_loopback(host: str) -> bool:
  """Returns whether only this machine can reach a host."""
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"


class BoundedServer(http.server.ThreadingHTTPServer):
  """Handles each connection in a daemon thread; refuses too many at once."""

  daemon_threads = True
  request_queue_size = 64

  def __init__(self, *arguments: object):
    self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
    super().__init__(*arguments)

  def process_request(self, *connection: object) -> None:
    if not self._slots.acquire(blocking=False):
      self.shutdown_request(connection[0])
      return
    try:
      super().process_request(*connection)
    except RuntimeError:  # There is no memory for another thread.
      self._slots.release()
      raise

  def process_request_thread(self, *connection: object) -> None:
    try:
      super().process_request_thread(*connection)
    finally:
      self._slots.release()

  def handle_error(self, *where: object) -> None:
    """Ignores connections that the browser closed."""
    if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
      super().handle_error(*where)


class _RequestReader(io.RawIOBase):
  """Reads a socket until a deadline, however slowly the bytes arrive."""

  def __init__(self, connection: socket.socket):
    super().__init__()
    self._socket = connection
    self.deadline = 0.0

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    left = self.deadline - time.monotonic()
    if left <= 0:
      raise TimeoutError("the request took too long")
    self._socket.settimeout(left)
    return self._socket.recv_into(buffer)


class BoundedHandler(http.server.BaseHTTPRequestHandler):
  """Reads requests within the limits; subclasses answer them.

  Attributes:
    names: names of this machine in lower case.
    remote: whether other machines can reach the server.
  """

  names: frozenset[str] = frozenset()
  remote = False
  protocol_version = "HTTP/1.1"
  server_version = "rating"
  sys_version = ""

  def log_message(self, *_: object) -> None:
    """Logs nothing, since requests contain names and the key."""

  def setup(self) -> None:
    super().setup()
    self._reader = _RequestReader(self.connection)
    self.rfile = io.BufferedReader(self._reader)

  def handle_one_request(self) -> None:
    self._reader.deadline = time.monotonic() + REQUEST_SECONDS
    super().handle_one_request()

  def parse_request(self) -> bool:
    """Parses line and headers; refuses requests for another host."""
    if not super().parse_request():
      return False
    hosts = self.headers.get_all("Host", [])
    if len(hosts) == 1 and self.serves(hosts[0]):
      return True
    self.send_problem(
      HTTPStatus.MISDIRECTED_REQUEST,
      "the address names another host; open the address that the job printed",
    )
    return False

  def serves(self, host: str) -> bool:
    """Returns whether a Host header names this machine; any port does.

    Another port comes from an SSH tunnel. A page that other machines can reach
    is asked for by any of this machine's addresses.
    """
    name = re.sub(r":\d*$", "", host.strip().lower()).strip("[]")
    if name in self.names or is_loopback(name):
      return True
    with contextlib.suppress(ValueError):
      return self.remote and bool(ipaddress.ip_address(name))
    return False

  def read_body(self) -> bytes | None:
    """Reads the body; answers and returns None if its length is invalid."""
    lengths = self.headers.get_all("Content-Length", [])
    # More digits are larger than any limit.
    if (
      len(lengths) == 1
      and re.fullmatch("[0-9]{1,9}", lengths[0])
      and int(lengths[0]) <= MAX_BODY
      and "Transfer-Encoding" not in self.headers
    ):
      return self.rfile.read(int(lengths[0]))
    self.send_problem(
      HTTPStatus.BAD_REQUEST,
      f"Content-Length is {', '.join(lengths) or 'missing':.80}; it must be "
      f"one number from 0 to {MAX_BODY}, without Transfer-Encoding",
    )
    return None

  def send_problem(self, status: HTTPStatus, why: str) -> None:
    """Sends an error and closes the connection."""
    self.close_connection = True
    self.send_json(status, {"error": why})

  def send_json(self, status: HTTPStatus, row: records.Row) -> None:
    """Sends a JSON object."""
    # ASCII, since half a surrogate pair in a text is not valid UTF-8.
    data = json.dumps(row).encode("ascii")
    self.send_bytes(status, data, "application/json", {})

  def send_bytes(
    self,
    status: HTTPStatus,
    data: bytes,
    kind: str,
    extra_headers: dict[str, str],
  ) -> None:
    """Sends a response that no cache keeps."""
    headers = {
      "Content-Type": kind,
      "Content-Length": str(len(data)),
      "Cache-Control": "no-store",
      "Referrer-Policy": "no-referrer",
      "X-Content-Type-Options": "nosniff",
      **extra_headers,
    }
    if self.close_connection:
      headers["Connection"] = "close"
    self.connection.settimeout(REQUEST_SECONDS)
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(data)
