# SPDX-License-Identifier: Apache-2.0
"""Slow, damaged and misdirected requests, over raw sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from rlaif_jax.rating import annotations
from rlaif_jax.rating import bounded_server
from rlaif_jax.rating import rating_page

KEY = "the-key"


@contextlib.contextmanager
def serving(tmp_path, **config):
  items = [
    annotations.Item(id="i0", context="c", names=("a", "b"), responses="xy")
  ]
  log = annotations.AnnotationLog(
    tmp_path / "annotations.jsonl", items, annotations.AnnotationConfig()
  )
  server = rating_page.make_server(
    log, rating_page.ServerConfig(port=0, **config), key=KEY
  )
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  try:
    yield server
  finally:
    server.shutdown()
    server.server_close()
    log.close()


@pytest.fixture
def server(tmp_path):
  with serving(tmp_path) as server:
    yield server


def connect(server):
  return socket.create_connection(server.server_address, timeout=10)


def ask(server, *lines, body=b""):
  """The whole reply to a request that is closed by the server."""
  head = "\r\n".join([*lines, "", ""]).encode("latin-1")
  with connect(server) as connection:
    connection.sendall(head + body)
    reply = b""
    while chunk := connection.recv(65536):
      reply += chunk
      if b"Connection: close" not in reply:
        break
  return reply


def status(reply):
  return int(reply.split()[1])


HOST = "Host: 127.0.0.1"
POST = ("POST /annotate HTTP/1.1", HOST, f"{rating_page.KEY_HEADER}: {KEY}")


@pytest.mark.parametrize(
  "headers",
  [
    [],
    ["Content-Length: -1"],
    ["Content-Length: ten"],
    ["Content-Length: 1e3"],
    ["Content-Length: +3"],
    ["Content-Length: 3 "],
    ["Content-Length: \xb2"],
    ["Content-Length: 65537"],
    ["Content-Length: " + "9" * 30],
    ["Content-Length: " + "9" * 5000],
    ["Content-Length: 2", "Content-Length: 3"],
    ["Content-Length: 2", "Transfer-Encoding: chunked"],
  ],
)
def test_a_bad_length_is_a_bad_request(server, headers, capsys):
  reply = ask(server, *POST, *headers)
  assert status(reply) == 400 and b"Content-Length is" in reply
  assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
  "line",
  [
    "GET //[ HTTP/1.1",
    "GET http://[::1 HTTP/1.1",
    "GET",
    "GET / HTTP/9",
    "GET / HTTP/1.1 more",
    "\x16\x03\x01 tls",
    "POST http://[ HTTP/1.1",
  ],
)
def test_a_bad_line_is_a_bad_request(server, line, capsys):
  reply = ask(server, line, HOST, "Content-Length: 0")
  assert b"400" in reply or status(reply) in (403, 404, 505)
  assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
  "host, code",
  [
    ("127.0.0.1", 403),
    ("127.0.0.1:8321", 403),
    ("localhost:9", 403),  # of a tunnel
    ("LOCALHOST", 403),
    ("[::1]:80", 403),
    ("evil.example", 421),
    ("evil.example:8321", 421),
    ("127.0.0.1.evil.example", 421),
    ("10.0.0.1", 421),
    ("", 421),
  ],
)
def test_only_this_machines_names_are_served(server, host, code):
  assert status(ask(server, "GET / HTTP/1.1", f"Host: {host}")) == code


def test_a_request_needs_one_host(server):
  assert status(ask(server, "GET / HTTP/1.1")) == 421
  assert status(ask(server, "GET / HTTP/1.1", HOST, "Host: evil")) == 421


def test_a_remote_page_is_served_by_any_address_and_its_own_name(tmp_path):
  with serving(tmp_path, host="0.0.0.0", allow_remote=True) as server:
    port = server.server_port
    server.server_address = ("127.0.0.1", port)
    for name in ("10.0.0.1", socket.gethostname(), f"127.0.0.1:{port}"):
      reply = ask(server, "GET / HTTP/1.1", f"Host: {name}")
      assert status(reply) == 403, name
    assert status(ask(server, "GET / HTTP/1.1", "Host: evil.example")) == 421


@pytest.mark.parametrize(
  "sent", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127", b""]
)
def test_a_slow_request_is_cut_off(server, sent, monkeypatch, capsys):
  """A byte at a time does not help: the limit is of the whole request."""
  monkeypatch.setattr(bounded_server, "REQUEST_SECONDS", 0.3)
  with connect(server) as connection:
    begin = time.monotonic()
    connection.sendall(sent)
    with contextlib.suppress(ConnectionError):
      for _ in range(40):
        connection.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
          if not connection.recv(1):
            break
        connection.sendall(b"x")
    assert time.monotonic() - begin < 1.5
  assert "Traceback" not in capsys.readouterr().err


def test_a_slow_body_is_cut_off_and_the_next_request_is_answered(
  server, monkeypatch
):
  monkeypatch.setattr(bounded_server, "REQUEST_SECONDS", 0.2)
  head = "\r\n".join([*POST, "Content-Length: 9", "", "{"]).encode()
  with connect(server) as connection:
    connection.sendall(head)
    assert connection.recv(100) == b""
  assert status(ask(server, "GET / HTTP/1.1", HOST)) == 403


def test_connections_are_bounded(tmp_path, monkeypatch):
  monkeypatch.setattr(bounded_server, "MAX_CONNECTIONS", 4)
  before = threading.active_count()
  with serving(tmp_path) as server, contextlib.ExitStack() as stack:
    held = [stack.enter_context(connect(server)) for _ in range(12)]
    refused = 0
    for connection in held[4:]:
      with contextlib.suppress(ConnectionError):
        assert connection.recv(1) == b""
      refused += 1
    assert refused == 8 and threading.active_count() <= before + 1 + 4
    # A connection that ends makes room.
    held[0].close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
      with contextlib.suppress(ConnectionError, IndexError):
        assert status(ask(server, "GET / HTTP/1.1", HOST)) == 403
        break
      time.sleep(0.02)
    else:
      raise AssertionError("no room")


def test_loopback():
  assert all(map(bounded_server.is_loopback, ("::1", "127.9.9.9", "localhost")))
  assert not any(map(bounded_server.is_loopback, ("10.0.0.1", "a", "")))
