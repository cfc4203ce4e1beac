# SPDX-License-Identifier: Apache-2.0
"""results.json -> one self-contained report.html: tables, plots, texts.

A pure function of the results that `jobs.evaluate` collects (its keys are the
sections here); nothing is computed anew. A section without results says so.
"""

from __future__ import annotations

import html
import os
from typing import Any, Mapping, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.evaluation import figures

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
th:first-child, td:first-child, td.text { text-align: left; }
td.text { white-space: normal; min-width: 11rem; }
td small, th small { opacity: .7; }
tr:hover td { background: var(--soft); }
b.yes { color: #1a8f5a; } b.no { color: #c2541b; }
figure { margin: 1.2rem 0; } figure svg { max-width: 100%; height: auto;
  background: #fff; border-radius: 6px; }
figcaption { opacity: .8; font-size: .92rem; max-width: 46rem; }
"""

Results = Mapping[str, Any]


def _escape(text: Any) -> str:
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
  """An HTML table of cells that are HTML already."""
  top = "".join(f"<th>{cell}</th>" for cell in head)
  body = "".join(
    "<tr>"
    + "".join(
      cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row
    )
    + "</tr>"
    for row in rows
  )
  return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _section(title: str, *parts: str) -> str:
  content = "".join(part for part in parts if part)
  if not content:
    content = '<p class="note">This run measured nothing here.</p>'
  return f"<h2>{_escape(title)}</h2>{content}"


def _note(text: str) -> str:
  return f'<p class="note">{text}</p>'


def verdict(comparison: Mapping[str, Any]) -> str:
  """What the intervals say, and whether length tells another story."""
  raw = comparison["win_rate"]
  controlled = comparison["log_length_controlled"]
  if raw["low"] > 0.5:
    text = '<b class="yes">better</b>'
  elif raw["high"] < 0.5:
    text = '<b class="no">worse</b>'
  else:
    text = "no difference shown"
  if raw["low"] > 0.5 and controlled["low"] <= 0.5:
    text += "; <b>not shown at equal length</b>"
  elif raw["high"] < 0.5 and controlled["high"] >= 0.5:
    text += "; <b>not shown at equal length</b>"
  return text


def oriented(results: Results) -> list[dict[str, Any]]:
  """Comparisons with the baseline turned to stand second."""
  baseline = results["baseline"]
  return [
    swap(c) if c["a"] == baseline else dict(c) for c in results["comparisons"]
  ]


def swap(comparison: Mapping[str, Any]) -> dict[str, Any]:
  """B against A, from A against B."""

  def flip(e):
    return {
      **e,
      "value": 1 - e["value"],
      "low": 1 - e["high"],
      "high": 1 - e["low"],
    }

  return {
    **comparison,
    "a": comparison["b"],
    "b": comparison["a"],
    "win_rate": flip(comparison["win_rate"]),
    # The regression on the plain ratio has no exact mirror image; its value
    # at ratio 1 is 1 minus the other only approximately.
    "length_controlled": flip(comparison["length_controlled"]),
    "log_length_controlled": flip(comparison["log_length_controlled"]),
    "length_ratio": 1 / comparison["length_ratio"],
  }


def _win_rates(results: Results) -> str:
  rows = [
    [
      f"{_escape(c['a'])} against {_escape(c['b'])}",
      percent(c["win_rate"]),
      percent(c["length_controlled"]),
      percent(c["log_length_controlled"]),
      f"{c['length_ratio']:.2f}",
      f'<td class="text">{verdict(c)}</td>',
    ]
    for c in oriented(results)
  ]
  head = (
    "Policies",
    "Win rate",
    "At equal length<br><small>ratio</small>",
    "At equal length<br><small>log ratio</small>",
    "Length ratio",
    "Reading",
  )
  return table(head, rows) + _note(
    "Share of test contexts on which the first policy's response has the "
    "higher gold reward, ties half, with 95 % Wilson intervals. At equal "
    "length: logistic regression on the ratio of lengths in characters, read "
    "at ratio 1 (the paper's appendix J), and on its logarithm."
  )


def headline(results: Results) -> str:
  """One plain sentence on who beats the baseline, and at equal length."""
  against = [
    c
    for c in oriented(results)
    if c["b"] == results["baseline"] and c["a"] != "human"
  ]
  better = [c["a"] for c in against if c["win_rate"]["low"] > 0.5]
  still = [
    c["a"]
    for c in against
    if c["a"] in better and c["log_length_controlled"]["low"] > 0.5
  ]
  baseline = results["baseline"]
  if not better:
    return f"No policy is shown to be better than {baseline} under gold."
  text = f"Better than {baseline} under gold: {', '.join(better)}. "
  if set(still) == set(better):
    return text + "At equal length the same holds."
  if not still:
    return text + "At equal length none of them is shown to be better."
  return text + f"At equal length only {', '.join(still)}."


def _policies(results: Results) -> str:
  parts = (
    "gold",
    "coverage",
    "faithfulness",
    "brevity",
    "no_repetition",
    "form",
  )
  rows = [
    [
      _escape(name),
      *(number(row.get(part)) for part in parts),
      number(row.get("characters"), 1),
      number(row.get("kl"), 2),
    ]
    for name, row in results["policies"].items()
  ]
  head = (
    "Policy",
    "Gold",
    "Coverage",
    "Faithfulness",
    "Brevity",
    "No repetition",
    "Form",
    "Characters",
    "KL to SFT<br><small>nats a response</small>",
  )
  return table(head, rows) + _note(
    "Means over test contexts, 95 % normal intervals. Human: the summary "
    "that the document's author wrote."
  )


def _labelers(results: Results) -> str:
  rows = []
  for name, row in results["labelers"].items():
    alignment, bias = row["alignment"], row["position_bias"]
    rows.append(
      [
        _escape(name),
        percent(alignment["accuracy"]),
        percent(alignment["longer_wins"]),
        percent(alignment["copied_wins"]),
        f"{alignment['entropy']:.3f}",
        f"{alignment['calibration_error']:.3f}",
        percent(bias["same_position"]),
        percent(bias["first_side"]),
        f"{bias['p_value']:.2g}",
        f"{alignment['unanswered']}",
      ]
    )
  if not rows:
    return ""
  head = (
    "Labeler",
    "Agrees with humans",
    "Longer wins",
    "More copied wins",
    "Entropy <small>nats</small>",
    "Calibration error",
    "Same position in both orders",
    "of these: first",
    "p",
    "Unanswered",
  )
  return table(head, rows) + _note(
    "Agreement of the label (both orders averaged) with a human's, beside two "
    "baselines that read no meaning. p: exact two-sided binomial test that "
    "neither side is preferred."
  )


def _rewards(results: Results) -> str:
  rows = [
    [_escape(name), str(row["labels"]), percent(row["accuracy"])]
    for name, curve in results["rewards"].items()
    for row in curve
  ]
  if not rows:
    return ""
  return table(("Reward model", "Labels", "Agrees with humans"), rows)


def _examples(results: Results) -> str:
  names = list(results["policies"])
  rows = []
  for example in results["examples"]:
    context = example["context"]
    short = context if len(context) < 400 else context[:400] + " ..."
    cells = [f'<td class="text">{_escape(short)}</td>']
    for name in names:
      cells.append(
        f'<td class="text">{_escape(example["texts"][name]) or "<i>empty</i>"}'
        f"<br><small>gold {example['gold'][name]:.2f}</small></td>"
      )
    rows.append(cells)
  return table(("Document", *map(_escape, names)), rows) + _note(
    "The first test contexts in the order of their ids: not chosen."
  )


def _selection(results: Results) -> str:
  rows = []
  for name, curve in results["curves"].items():
    for candidate in curve["candidates"]:
      mark = " (taken)" if candidate["step"] == curve["selected_step"] else ""
      rows.append(
        [
          _escape(name),
          f"{candidate['step']}{mark}",
          f"{candidate['score']:.3f}",
          percent(candidate["preference"]),
        ]
      )
  if not rows:
    return ""
  head = (
    "Policy",
    "Step",
    "Validation reward",
    "Preferred to SFT by the labeler",
  )
  return table(head, rows)


def _runs(results: Results) -> str:
  rows = [
    [_escape(row["run"]), _escape(row["job"]), f"{row['seconds']:.0f} s"]
    for row in results["runs"]
  ]
  facts = ", ".join(f"{k} {v}" for k, v in results["facts"].items())
  return table(("Run", "Job", "Took"), rows) + _note(_escape(facts))


def _figure(svg: str, caption: str) -> str:
  if not svg:
    return ""
  return f"<figure>{svg}<figcaption>{_escape(caption)}</figcaption></figure>"


def render(results: Results) -> str:
  """The whole page as text."""
  body = [
    f"<h1>{_escape(results['title'])}</h1>",
    _note(
      "Who wins is judged by a known gold reward, which no labeler and no "
      "reward model sees. See docs/data.md and rlaif_jax/evaluation/gold.py."
    ),
    f"<p><b>{_escape(headline(results))}</b></p>",
    _section("Win rates", _win_rates(results)),
    _section("What the policies write, in numbers", _policies(results)),
    _section(
      "Reward against distance from SFT",
      _figure(
        figures.reward_against_kl(results["curves"]),
        "Each line is one run of reinforcement learning, from the SFT policy "
        "at the left. Left: gold. Right: the reward that was optimised. Where "
        "the right goes up and the left does not, the reward is being gamed.",
      ),
      _figure(
        figures.training(results["curves"]),
        "Reward, KL and length of the rollouts during training.",
      ),
      _selection(results),
    ),
    _section("AI labels", _labelers(results)),
    _section(
      "Reward models",
      _rewards(results),
      _figure(
        figures.accuracy_against_labels(results["rewards"]),
        "Accuracy on held-out human labels against the number of labels "
        "trained on; bars are 95 % intervals.",
      ),
    ),
    _section(
      "Lengths",
      _figure(
        figures.lengths(results["lengths"]),
        "Distribution of response lengths in characters.",
      ),
    ),
    _section("Texts side by side", _examples(results)),
    _section("How it was made", _runs(results)),
  ]
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{_escape(results['title'])}</title><style>{_STYLE}</style></head>"
    f"<body>{''.join(body)}</body></html>\n"
  )


def write_report(results: Results, path: str | os.PathLike) -> None:
  """Writes the page; it needs no network and no other file."""
  jsonl.write_text(path, render(results))
