# SPDX-License-Identifier: Apache-2.0
"""results.json -> one self-contained report.html: tables, plots, texts.

A pure function of the results that `jobs.evaluate` collects (its keys are the
sections here); nothing is computed anew. A section without results says so.
"""

from __future__ import annotations

import os
from typing import Any, Mapping

from rlaif_jax.core import jsonl
from rlaif_jax.evaluation import figures
from rlaif_jax.evaluation import pages

Results = Mapping[str, Any]


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
      f"{pages.escape(c['a'])} against {pages.escape(c['b'])}",
      pages.percent(c["win_rate"]),
      pages.percent(c["length_controlled"]),
      pages.percent(c["log_length_controlled"]),
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
  return pages.table(head, rows) + pages.note(
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
      pages.escape(name),
      *(pages.number(row.get(part)) for part in parts),
      pages.number(row.get("characters"), 1),
      pages.number(row.get("kl"), 2),
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
  return pages.table(head, rows) + pages.note(
    "Means over test contexts, 95 % normal intervals. Human: the summary "
    "that the document's author wrote."
  )


def labelers_table(results: Results) -> str:
  """Alignment and position bias of each `label` run."""
  rows = []
  for name, row in results["labelers"].items():
    alignment, bias = row["alignment"], row["position_bias"]
    rows.append(
      [
        pages.escape(name),
        pages.percent(alignment["accuracy"]),
        pages.percent(alignment["longer_wins"]),
        pages.percent(alignment["copied_wins"]),
        f"{alignment['entropy']:.3f}",
        f"{alignment['calibration_error']:.3f}",
        pages.percent(bias["same_position"]),
        pages.percent(bias["first_side"]),
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
  return pages.table(head, rows) + pages.note(
    "Agreement of the label (both orders averaged) with a human's, beside two "
    "baselines that read no meaning. p: exact two-sided binomial test that "
    "neither side is preferred."
  )


def rewards_table(results: Results) -> str:
  """Accuracy of each reward model and number of labels."""
  rows = [
    [pages.escape(name), str(row["labels"]), pages.percent(row["accuracy"])]
    for name, curve in results["rewards"].items()
    for row in curve
  ]
  if not rows:
    return ""
  return pages.table(("Reward model", "Labels", "Agrees with humans"), rows)


def _examples(results: Results) -> str:
  names = list(results["policies"])
  rows = []
  for example in results["examples"]:
    context = example["context"]
    short = context if len(context) < 400 else context[:400] + " ..."
    cells = [f'<td class="text">{pages.escape(short)}</td>']
    for name in names:
      text = pages.escape(example["texts"][name]) or "<i>empty</i>"
      cells.append(
        f'<td class="text">{text}'
        f"<br><small>gold {example['gold'][name]:.2f}</small></td>"
      )
    rows.append(cells)
  return pages.table(
    ("Document", *map(pages.escape, names)), rows
  ) + pages.note(
    "The first test contexts in the order of their ids: not chosen."
  )


def selection_table(results: Results) -> str:
  """Candidates of each policy, and which was taken."""
  rows = []
  for name, curve in results["curves"].items():
    for candidate in curve["candidates"]:
      mark = " (taken)" if candidate["step"] == curve["selected_step"] else ""
      rows.append(
        [
          pages.escape(name),
          f"{candidate['step']}{mark}",
          f"{candidate['score']:.3f}",
          pages.percent(candidate["preference"]),
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
  return pages.table(head, rows)


def runs_table(results: Results) -> str:
  """What ran, for how long, with which versions."""
  rows = [
    [
      pages.escape(row["run"]),
      pages.escape(row["job"]),
      f"{row['seconds']:.0f} s",
    ]
    for row in results["runs"]
  ]
  facts = ", ".join(f"{k} {v}" for k, v in results["facts"].items())
  return pages.table(("Run", "Job", "Took"), rows) + pages.note(
    pages.escape(facts)
  )


def render(results: Results) -> str:
  """The whole page as text."""
  body = [
    f"<h1>{pages.escape(results['title'])}</h1>",
    pages.note(
      "Who wins is judged by a known gold reward, which no labeler and no "
      "reward model sees: rlaif_jax/evaluation/gold.py."
    ),
    f"<p><b>{pages.escape(headline(results))}</b></p>",
    pages.section("Win rates", _win_rates(results)),
    pages.section("What the policies write, in numbers", _policies(results)),
    pages.section(
      "Reward against distance from SFT",
      pages.figure(
        figures.reward_against_kl(results["curves"]),
        "Each line is one run of reinforcement learning, from the SFT policy "
        "at the left. Left: gold. Right: the reward that was optimised. Where "
        "the right goes up and the left does not, the reward is being gamed.",
      ),
      pages.figure(
        figures.training(results["curves"]),
        "Reward, KL and length of the rollouts during training.",
      ),
      selection_table(results),
    ),
    pages.section("AI labels", labelers_table(results)),
    pages.section(
      "Reward models",
      rewards_table(results),
      pages.figure(
        figures.accuracy_against_labels(results["rewards"]),
        "Accuracy on held-out human labels against the number of labels "
        "trained on; bars are 95 % intervals.",
      ),
    ),
    pages.section(
      "Lengths",
      pages.figure(
        figures.lengths(results["lengths"]),
        "Distribution of response lengths in characters.",
      ),
    ),
    pages.section("Texts side by side", _examples(results)),
    pages.section("How it was made", runs_table(results)),
  ]
  return pages.page(results["title"], body)


def write_report(results: Results, path: str | os.PathLike) -> None:
  """Writes the page; it needs no network and no other file."""
  jsonl.write_text(path, render(results))
