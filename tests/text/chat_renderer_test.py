# SPDX-License-Identifier: Apache-2.0
"""Hostile templates end within their limits, and the next one is rendered."""

from __future__ import annotations

import time

import pytest

from rlaif_jax.text import chat_renderer

DOUBLED = (
  "{% set n = namespace(x='abcd') %}{% for i in range(64) %}"
  "{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}"
)


@pytest.mark.parametrize(
  "template, message",
  [
    ("{{ ''.center(3000000000) }}", "memory"),
    ("{{ 'x' * 10**10 }}", "memory"),
    ("{{ '%3000000000d' % 1 }}", "memory"),
    ("{{ '{:3000000000}'.format(1) }}", "memory"),
    (DOUBLED, "memory"),
    ("{{ 'x' * 2000000 }}", "more than 1048576 characters"),
    (
      "{% for i in range(9000) %}{% for j in range(900) %}xx{% endfor %}"
      "{% endfor %}",
      "more than 1048576 characters",
    ),
    ("{{ range(10**9) | list }}", "OverflowError.*[Rr]ange"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "Recursion|memory|jinja2"),
  ],
)
def test_limits_of_memory_and_output(template, message):
  begin = time.monotonic()
  with pytest.raises(ValueError, match=message):
    chat_renderer.render(template, {})
  assert time.monotonic() - begin < chat_renderer.SECONDS
  assert chat_renderer.render("{{ 1 + 1 }}", {}) == "2"


@pytest.mark.parametrize(
  "template",
  [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "{{ (9 ** (9 ** 9)) | string | length }}",
  ],
)
def test_limit_of_time(monkeypatch, template):
  chat_renderer.render("", {})
  monkeypatch.setattr(chat_renderer, "SECONDS", 0.3)
  with pytest.raises(ValueError, match="limit of 0.3 s"):
    chat_renderer.render(template, {})
  monkeypatch.undo()
  assert chat_renderer.render("{{ 1 + 1 }}", {}) == "2"


def test_the_process_sees_no_environment(monkeypatch):
  """A template cannot read variables anyway; none are there."""
  monkeypatch.setenv("SECRET_KEY", "s")
  monkeypatch.setattr(chat_renderer, "_server", None)
  chat_renderer.render("", {})
  pid = chat_renderer._server._process.pid
  with open(f"/proc/{pid}/environ", "rb") as file:
    assert b"SECRET_KEY" not in file.read()


def test_errors_are_those_of_the_template():
  with pytest.raises(ValueError, match="no jinja2, line 2"):
    chat_renderer.render("a\n{% if %}", {})
  messages = [{"role": "user", "content": "x"}]
  with pytest.raises(ValueError, match=r"roles \['user'\].*TypeError"):
    chat_renderer.render("{{ 1 + messages }}", {"messages": messages})
