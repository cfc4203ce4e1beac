# SPDX-License-Identifier: Apache-2.0
"""Pieces of a self-contained HTML page: its style, tables, numbers, figures."""

from __future__ import annotations

import html
from typing import Any, Mapping, Sequence

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; padding: 1.2rem;
  max-width: 64rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; }
p.note { opacity: .8; max-width: 46rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line);
  text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
th { white-space: normal; vertical-align: bottom; }
td.text { white-space: normal; min-width: 11rem; }
td small, th small { opacity: .7; }
tr:hover td { background: var(--soft); }
b.yes { color: #1a8f5a; } b.no { color: #c2541b; }
figure { margin: 1.2rem 0; } figure svg { max-width: 100%; height: auto;
  background: #fff; border-radius: 6px; }
figcaption { opacity: .8; font-size: .92rem; max-width: 46rem; }
"""


def escape(text: Any) -> str:
  """Text as HTML shows it, whatever it holds."""
  return html.escape(str(text))


def percent(estimate: Mapping[str, Any]) -> str:
  """A share as 71.2 % and, below it, [68.0, 74.2] n=..."""
  if not estimate["n"]:
    return "-"
  return (
    f"{100 * estimate['value']:.1f} %<br><small>"
    f"[{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}] "
    f"n={estimate['n']}</small>"
  )


def number(estimate: Mapping[str, Any] | None, digits: int = 3) -> str:
  """A mean as 0.412 and, below it, [0.40, 0.42] n=..."""
  if estimate is None or not estimate["n"]:
    return "-"
  low, high = estimate["low"], estimate["high"]
  return (
    f"{estimate['value']:.{digits}f}<br><small>"
    f"[{low:.{digits}f}, {high:.{digits}f}] n={estimate['n']}</small>"
  )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """An HTML table of cells that are HTML already.

  A cell is its inside, or a whole td; the head of a column stands where its
  cells do.
  """
  is_text = [
    any(row[i].startswith('<td class="text"') for row in rows)
    for i in range(len(head))
  ]
  top = "".join(
    f'<th class="text">{cell}</th>' if left else f"<th>{cell}</th>"
    for cell, left in zip(head, is_text, strict=True)
  )
  body = "".join(
    "<tr>"
    + "".join(
      cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row
    )
    + "</tr>"
    for row in rows
  )
  return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def section(title: str, *parts: str) -> str:
  """A heading with what belongs to it, or that there is nothing."""
  content = "".join(part for part in parts if part)
  if not content:
    content = '<p class="note">This run measured nothing here.</p>'
  return f"<h2>{escape(title)}</h2>{content}"


def note(text: str) -> str:
  """A paragraph of explanation; HTML."""
  return f'<p class="note">{text}</p>'


def figure(svg: str, caption: str) -> str:
  """A figure with its caption; nothing without a drawing."""
  if not svg:
    return ""
  return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def page(title: str, body: Sequence[str]) -> str:
  """The whole document; it needs no network and no other file."""
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
    f"<body>{''.join(body)}</body></html>\n"
  )
