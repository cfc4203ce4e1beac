# SPDX-License-Identifier: Apache-2.0
"""The rating page over raw HTTP: what it tells, and what it refuses."""

from __future__ import annotations

import http.client
import json
import re
import threading

import pytest

from rlaif_jax.rating import annotations
from rlaif_jax.rating import rating_page

KEY = "the-key"
NASTY = "</script><script>alert(1)</script> \ud800 \u202e \x00 'quoted'"
NAMES = ("secret-policy-one", "secret-policy-two")


@pytest.fixture
def server(tmp_path):
  items = [
    annotations.Item(
      id=f"i{i}",
      context=NASTY,
      names=NAMES,
      responses=(f"one {i}", f"two {i}"),
    )
    for i in range(3)
  ]
  log = annotations.AnnotationLog(
    tmp_path / "annotations.jsonl", items, annotations.AnnotationConfig()
  )
  server = rating_page.make_server(
    log, rating_page.ServerConfig(port=0), key=KEY
  )
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  yield server
  server.shutdown()
  server.server_close()
  log.close()


def ask(server, path, body=None, *, key=KEY, headers=()):
  """(status, headers, body) of one request."""
  connection = http.client.HTTPConnection(*server.server_address, timeout=10)
  data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
  connection.request(
    "GET" if data is None else "POST",
    path,
    data,
    {rating_page.KEY_HEADER: key, **dict(headers)},
  )
  reply = connection.getresponse()
  result = reply.status, reply.headers, reply.read()
  connection.close()
  return result


def say(server, **change):
  row = {"rater": "ann", "picks": [1, 0], "final": True, "version": 0}
  return ask(server, "/annotate", {**row, **change})


def test_a_ranking_by_hand(server):
  view = json.loads(ask(server, "/view?rater=ann")[2])
  assert view["context"] == NASTY
  assert view["question"] == rating_page.QUESTIONS["rank"]
  assert view["picks"] == [] and (view["number"], view["count"]) == (1, 3)
  status, _, body = say(server, item=view["item"], picks=[1], final=False)
  assert (status, json.loads(body)) == (200, {"version": 1})
  assert json.loads(ask(server, "/view?rater=ann")[2])["picks"] == [1]
  status, _, body = say(server, item=view["item"], version=1)
  assert json.loads(body)["number"] == 2
  again = json.loads(ask(server, "/reopen", {"rater": "ann"})[2])
  assert again["item"] == view["item"] and again["picks"] == [1, 0]
  say(server, item=view["item"], version=again["version"])
  for _ in range(2):
    body = ask(server, "/view?rater=ann")[2]
    status, _, body = say(server, item=json.loads(body)["item"])
  assert json.loads(body) == {"done": True}


def test_whose_responses_they_are_never_leaves(server):
  view = json.loads(ask(server, "/view?rater=ann")[2])
  said = [ask(server, f"/?key={KEY}"), ask(server, "/view?rater=ann")]
  said.append(say(server, item=view["item"]))
  said.append(ask(server, "/reopen", {"rater": "ann"}))
  said.append(say(server, item=view["item"], picks=[7]))
  for _, headers, body in said:
    for name in NAMES:
      assert name not in str(headers) and name.encode() not in body


def test_the_page_runs_only_its_own_script(server):
  status, headers, body = ask(server, f"/?key={KEY}")
  assert status == 200
  policy = headers["Content-Security-Policy"]
  (nonce,) = set(re.findall(rb'nonce="([^"]+)"', body))
  assert f"script-src 'nonce-{nonce.decode()}'" in policy
  assert "default-src 'none'" in policy and "{{" not in body.decode()
  assert headers["Cache-Control"] == "no-store"
  assert headers["Referrer-Policy"] == "no-referrer"
  other = ask(server, f"/?key={KEY}")[2]
  assert nonce not in other
  # No text of the data is in the page, and nothing writes HTML.
  assert b"alert(1)" not in body
  for word in (b"innerHTML", b"insertAdjacent", b"document.write", b"eval("):
    assert word not in body


def test_without_the_key_nothing_is_told(server):
  for path in ("/", "/?key=", "/?key=other", "/?key=%ff"):
    status, _, body = ask(server, path, key="")
    assert status == 403 and b"<" not in body
  for key in ("", "other", "\xff"):
    assert ask(server, "/view?rater=ann", key=key)[0] == 403
    assert ask(server, "/annotate", {"rater": "ann"}, key=key)[0] == 403
    assert ask(server, "/reopen", {"rater": "ann"}, key=key)[0] == 403


@pytest.mark.parametrize(
  "body",
  [
    b"",
    b"{",
    b"\xff",
    b"[]",
    b"7",
    b"[" * 60_000,
    b'{"rater": "a", "item": "i0", "picks": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"rater": "a", "item": "i0", "picks": [' + b"9" * 5000 + b"]}",
    {"rater": "\ud800"},
    {"rater": "a", "item": "i0", "picks": [10**400], "final": False}
    | {"version": 0},
    {"rater": "ann"},
    {"rater": 7},
    {"rater": "a/b", "item": "i0", "picks": [0], "final": False, "version": 0},
    {"rater": "a", "item": "i9", "picks": [0], "final": False, "version": 0},
    {"rater": "a", "item": "i0", "picks": [0.5], "final": False, "version": 0},
    {"rater": "a", "item": "i0", "picks": [True], "final": False, "version": 0},
    {"rater": "a", "item": "i0", "picks": [0], "final": 1, "version": 0},
    {"rater": "a", "item": "i0", "picks": [0], "final": True, "version": 0},
  ],
)
def test_what_is_no_click_is_told_so(server, body):
  status, _, reply = ask(server, "/annotate", body)
  assert status == 400 and json.loads(reply)["error"]
  assert server.RequestHandlerClass.log.finished() == []


def test_other_paths_and_states(server):
  assert ask(server, "/etc/passwd")[0] == 404
  assert ask(server, "/other", {})[0] == 404
  assert ask(server, "/view?rater=")[0] == 400
  view = json.loads(ask(server, "/view?rater=ann")[2])
  assert say(server, item=view["item"])[0] == 200
  late = say(server, item=view["item"], picks=[0, 1])
  assert late[0] == 409 and b"another window" in late[2]


def test_a_full_disk_is_an_error(server, monkeypatch, tmp_path):
  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(annotations.os, "fsync", full)
  status, _, body = say(server, item="i0")
  assert status == 500 and b"No space left" in body
  monkeypatch.undo()
  assert (tmp_path / "annotations.jsonl").read_bytes() == b""
  assert say(server, item="i0")[0] == 200


def test_the_key_is_made_once_and_its_owners(tmp_path):
  path = tmp_path / "key"
  key = rating_page.read_key(path)
  assert len(key) >= 32 and rating_page.read_key(path) == key
  assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("host", ["0.0.0.0", "example.org"])
def test_remote_hosts_must_be_allowed(host):
  with pytest.raises(ValueError, match="allow_remote=True"):
    rating_page.ServerConfig(host=host).check()
  rating_page.ServerConfig(host=host, allow_remote=True).check()
  for local in ("::1", "127.0.0.1", "localhost"):
    rating_page.ServerConfig(host=local).check()


def test_the_address_has_the_key(server):
  address = rating_page.address(server)
  assert address == f"http://127.0.0.1:{server.server_port}/?key={KEY}"
