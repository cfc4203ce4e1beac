# SPDX-License-Identifier: Apache-2.0
"""Pieces of HTML pages."""

from __future__ import annotations

import dataclasses
from html import parser

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


def test_texts_stay_texts():
  page = pages.page(
    EVIL,
    [
      pages.section(EVIL, pages.table(("a",), [[pages.escape(EVIL)]])),
      pages.figure("<svg></svg>", EVIL),
    ],
  )
  found = read(page)
  assert "img" not in found.tags and "script" not in found.tags
  assert found.text.count(EVIL) == 4
  assert "http" not in page


def test_numbers_have_interval_and_n():
  share = dataclasses.asdict(statistics.wilson(30, 40))
  assert read(pages.percent(share)).text == "75.0 %[59.8, 85.8] n=40"
  mean = dataclasses.asdict(statistics.mean([1.0, 2.0, 3.0]))
  assert read(pages.number(mean, 1)).text == "2.0[0.9, 3.1] n=3"
  assert pages.percent(dataclasses.asdict(statistics.wilson(0, 0))) == "-"
  assert pages.number(None) == "-"


def test_empty_sections_say_so():
  assert "measured nothing" in pages.section("x", "", pages.figure("", "c"))
  assert "measured nothing" not in pages.section("x", pages.note("y"))


def test_the_head_of_a_column_stands_where_its_cells_do():
  text = '<td class="text">words</td>'
  table = pages.table(("a", "b", "c"), [["x", "1", text], ["y", "2", "-"]])
  assert table.count('<th class="text">') == 1
  assert '<th>b</th><th class="text">c</th>' in table
