# SPDX-License-Identifier: Apache-2.0
"""Macros that all pages share: escaping, numbers, sections, tables."""

from __future__ import annotations

import dataclasses
from html import parser

import pytest

from rlaif_jax.evaluation import pages
from rlaif_jax.ops import statistics

EVIL = '</script><img src=x onerror=alert(1)> & "quoted"'


class Texts(parser.HTMLParser):
  """Collects tags and text of a page."""

  def __init__(self):
    super().__init__()
    self.tags, self.text = [], ""

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)

  def handle_data(self, data):
    self.text += data


def read(html):
  found = Texts()
  found.feed(html)
  return found


def render(text, **values):
  """A page body with the shared macros."""
  text = '{% import "parts.html" as parts %}' + text
  return pages.environment().from_string(text).render(**values)


def test_texts_stay_texts():
  page = render(
    '{% extends "page.html" %}{% import "parts.html" as parts %}'
    "{% block body %}{% call parts.section(evil) %}"
    "{{ parts.table([evil], [[evil]]) }}{% endcall %}"
    '{{ parts.figure("<svg></svg>", evil) }}{% endblock %}',
    evil=EVIL,
    title=EVIL,
  )
  found = read(page)
  assert "img" not in found.tags and "script" not in found.tags
  assert "svg" in found.tags
  assert found.text.count(EVIL) == 6
  assert "http" not in page


def test_numbers_have_interval_and_n():
  share = dataclasses.asdict(statistics.wilson(30, 40))
  found = read(render("{{ parts.percent(e) }}", e=share))
  assert found.text.strip() == "75.0 %[59.8, 85.8] n=40"
  mean = dataclasses.asdict(statistics.mean([1.0, 2.0, 3.0]))
  found = read(render("{{ parts.number(e, 1) }}", e=mean))
  assert found.text.strip() == "2.0[0.9, 3.1] n=3"
  nothing = dataclasses.asdict(statistics.wilson(0, 0))
  assert render("{{ parts.percent(e) }}", e=nothing).strip() == "-"
  assert render("{{ parts.number(none) }}").strip() == "-"


def test_empty_sections_say_so():
  empty = '{% call parts.section("x") %} {{ parts.figure("", "c") }}'
  assert "measured nothing" in render(empty + "{% endcall %}")
  assert "measured nothing" not in render(empty + "y{% endcall %}")


def test_the_mirror_of_a_win_rate():
  share = dataclasses.asdict(statistics.wilson(30, 40))
  other = dataclasses.asdict(statistics.wilson(10, 40))
  found = pages.mirror(share)
  for key in ("value", "low", "high"):
    assert abs(found[key] - other[key]) < 1e-12


def test_a_missing_value_is_an_error_of_the_page():
  with pytest.raises(ValueError, match="runs.html: .*undefined"):
    pages.render("runs.html", title="t")
