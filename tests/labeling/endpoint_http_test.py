# SPDX-License-Identifier: Apache-2.0
"""Hostile responses: bombs, redirects, bad certificates, echoed keys."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import http.server
import ipaddress
import json
import math
import ssl
import threading
import tracemalloc
import zlib

import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import endpoint_http
from tests.labeling import faulty_server as fs

pytest.importorskip("openai")

KEY = "sk-canary-0123456789"
OPTIONS = ("1", "2")
GREEDY = dict(max_tokens=60, temperature=0.0, top_k=0, seed=0, stop="")


def message(body, *headers, status="200 told"):
  lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
  return "\r\n".join([*lines, "", ""]).encode() + body


def said(text):
  choice = {"message": {"content": text}, "finish_reason": "stop"}
  return json.dumps({"choices": [choice]}).encode()


def bomb(mebibytes):
  """Gzip data of that many MiB of zeros, made of one repeated block."""
  packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
  block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
  head = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff"
  return head + block * mebibytes + packer.flush(zlib.Z_FINISH)


def test_a_bomb_stops_at_the_cap_and_only_its_prompt_fails(caplog):
  data = bomb(1024)
  assert len(data) < 1.2e6
  packed = message(data, "content-encoding: gzip")
  reply = lambda prompt, headers: packed if prompt == "b" else b""
  with fs.serving(reply=reply) as (server, backend):
    backend.score_options(["a"], OPTIONS)
    tracemalloc.start()
    rows, usage = backend.score_options(["a", "b", "c"], OPTIONS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
  assert peak < 5 * endpoint_http.MAX_RESPONSE_BYTES
  assert math.isnan(rows[1][0]) and rows[0] == rows[0] and rows[2] == rows[2]
  assert server.received["b"] == 1 and "more than 8 MiB" in caplog.text
  # It is counted at its largest cost.
  assert usage.estimated == 1 and usage.input_tokens > costs.PROMPT_OVERHEAD


class Sent:
  """A response that arrives in chunks."""

  def __init__(self, *chunks):
    self._chunks = chunks
    self.read = 0

  async def aiter_raw(self):
    for chunk in self._chunks:
      self.read += 1
      yield chunk


def read(encoding, *chunks):
  return asyncio.run(endpoint_http.read_body(Sent(*chunks), encoding))


def test_bodies_of_each_encoding():
  whole = gzip.compress(b"abc" * 1000)
  halves = whole[:9], whole[9:]
  assert read("gzip", *halves) == read("x-gzip", whole) == b"abc" * 1000
  assert read("", b"a", b"b") == read("identity", b"ab") == b"ab"
  for encoding, why in (("br", "encoding 'br'"), ("gzip", "damaged gzip")):
    with pytest.raises(endpoint_http.DamagedResponse, match=why):
      read(encoding, b"not gzip")


def test_the_cap_is_exact_and_nothing_is_read_after_it():
  most = endpoint_http.MAX_RESPONSE_BYTES
  assert len(read("", bytes(most))) == most
  sent = Sent(bytes(most), b"x", b"y")
  with pytest.raises(endpoint_http.ResponseTooLarge, match="8 MiB"):
    asyncio.run(endpoint_http.read_body(sent, ""))
  assert sent.read == 2


def test_damaged_bodies_and_prompts_without_unicode_end_no_run():
  damaged = message(b"not gzip", "content-encoding: gzip")
  reply = lambda prompt, headers: damaged if prompt == "b" else b""
  prompts = ["a", "b", "\ud800"]
  with fs.serving(reply=reply) as (server, backend):
    rows, _ = backend.score_options(prompts, OPTIONS)
  assert [math.isnan(row[0]) for row in rows] == [False, True, True]
  assert server.received == {"a": 1, "b": 3}


def test_a_packed_answer_is_an_answer():
  data = gzip.compress(said("yes"))
  packed = message(data, "content-encoding: gzip")
  with fs.serving(reply=lambda *_: packed) as (server, backend):
    assert backend.complete(["a"], **GREEDY)[0] == ["yes"]


@pytest.mark.parametrize("status", ["301", "302", "307", "308"])
def test_a_redirect_is_refused_and_the_other_host_hears_nothing(
  status, monkeypatch
):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  with fs.FaultyServer() as other:
    target = f"location: {other.url}/chat/completions?key={KEY}"
    moved = message(b"", target, status=f"{status} moved")
    with fs.serving(reply=lambda *_: moved) as (server, backend):
      with pytest.raises(ValueError, match="the server redirects") as error:
        backend.score_options(["a"], OPTIONS)
    assert not other.received and other.connections == 0
  assert "base_url" in str(error.value) and KEY not in str(error.value)
  assert server.received == {"a": 1}


def test_a_cookie_of_one_response_is_in_no_later_request():
  cookies = []

  def reply(prompt, headers):
    cookies.append(headers.get("cookie"))
    return message(said("yes"), "set-cookie: a=\xff; path=/")

  with fs.serving(reply=reply) as (server, backend):
    for prompt in ("a", "b"):
      assert backend.complete([prompt], **GREEDY)[0] == ["yes"]
  assert cookies == [None, None]


DEEP = b"[" * 100_000
HUGE = b"9" * 5000


@pytest.mark.parametrize(
  "body, status",
  [
    (b'{"choices": ' + DEEP, "200"),
    (b'{"choices": [' + HUGE + b"]}", "200"),
    (b'{"usage": {"prompt_tokens": 1e999}, "choices": [{}]}', "200"),
    (DEEP, "500"),
    (b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}", "400"),
    (b'{"error": {"message": ' + HUGE + b"}}", "500"),
  ],
)
def test_deep_and_huge_json_fails_its_prompt_and_not_the_run(body, status):
  bad = message(body, status=f"{status} told")
  reply = lambda prompt, headers: bad if prompt == "b" else b""
  with fs.serving(reply=reply) as (server, backend):
    if status == "400":  # is the same for every prompt
      with pytest.raises(ValueError, match="What to do"):
        backend.score_options(["b"], OPTIONS)
      return
    rows, _ = backend.score_options(["a", "b", "c"], OPTIONS)
  assert [math.isnan(row[0]) for row in rows] == [False, True, False]


def test_an_echoed_key_and_escapes_are_cut_out(monkeypatch, caplog):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)

  def reply(prompt, headers):
    echo = headers["authorization"]
    if prompt == "text":
      return message(said(f"It sent {echo}."))
    if prompt == "escaped":
      return message(said(echo).replace(b"sk-", b"\\u0073k-"))
    error = {"error": {"message": f"\x1b]0;owned\x07 {echo} \x9b2J"}}
    return message(json.dumps(error).encode(), status="503 told")

  heard = []
  with fs.serving(reply=reply, max_retries=0) as (server, backend):
    backend.on_output = lambda row, output, usage: heard.append(output)
    texts, _ = backend.complete(["text", "escaped", "error"], **GREEDY)
  assert texts == ["It sent Bearer [key].", "Bearer [key]", ""]
  assert sorted(heard) == sorted(texts[:2]) and KEY not in caplog.text
  (line,) = [line for line in caplog.messages if "prompts failed" in line]
  assert line.isprintable() and "owned" in line and "[key]" in line


def test_a_placeholder_of_a_key_stays_in_texts(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "none")
  with fs.serving(reply=lambda *_: message(said("none"))) as (_, backend):
    assert backend.complete(["a"], **GREEDY)[0] == ["none"]


def certificate(folder):
  """Writes a self-signed certificate with its key; returns the path."""
  x509 = pytest.importorskip("cryptography.x509")
  from cryptography.hazmat.primitives import hashes
  from cryptography.hazmat.primitives import serialization
  from cryptography.hazmat.primitives.asymmetric import ec

  key = ec.generate_private_key(ec.SECP256R1())
  name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
  begin = datetime.datetime(2020, 1, 1)
  signed = (
    x509.CertificateBuilder()
    .subject_name(name)
    .issuer_name(name)
    .public_key(key.public_key())
    .serial_number(1)
    .not_valid_before(begin)
    .not_valid_after(begin + datetime.timedelta(days=36500))
    .add_extension(
      x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
      ),
      critical=False,
    )
    .sign(key, hashes.SHA256())
  )
  path = folder / "certificate.pem"
  path.write_bytes(
    signed.public_bytes(serialization.Encoding.PEM)
    + key.private_bytes(
      serialization.Encoding.PEM,
      serialization.PrivateFormat.PKCS8,
      serialization.NoEncryption(),
    )
  )
  return path


def test_a_certificate_that_nobody_vouches_for_is_said_in_words(tmp_path):
  server = http.server.HTTPServer(
    ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
  )
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  context.load_cert_chain(certificate(tmp_path))
  server.socket = context.wrap_socket(server.socket, server_side=True)
  server.handle_error = lambda *_: None
  threading.Thread(target=server.serve_forever, daemon=True).start()
  config = endpoint_config.EndpointConfig(
    model="m", base_url=f"https://127.0.0.1:{server.server_port}/v1"
  )
  backend = endpoint.EndpointBackend(config)
  try:
    with pytest.raises(ValueError, match="TLS certificate .* not valid: self"):
      backend.score_options(["a"], OPTIONS)
  finally:
    backend.close()
    server.shutdown()
    server.server_close()


def test_causes_of_a_failure_are_found_without_a_loop():
  limits = costs.RequestLimits(prompt="p", max_tokens=2, count_tokens=len)
  error, cause = RuntimeError("a"), RuntimeError("b")
  error.__cause__, cause.__cause__ = cause, error
  lost = endpoint_http.parse_failure(error, limits)
  assert lost.error == "the connection was lost (RuntimeError)"
  assert lost.usage == records.Usage() and lost.kind == "transient"
