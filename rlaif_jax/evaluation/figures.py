# SPDX-License-Identifier: Apache-2.0
"""Figures of reports as SVG text. The only importer of matplotlib."""

from __future__ import annotations

import io
from typing import Any, Callable, Mapping, Sequence

from rlaif_jax.core import records

# Okabe and Ito's palette, told apart by all common kinds of colour vision.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def _draw(
  width: float,
  columns: int,
  paint: Callable[[Any], None],
  *,
  height: float = 3.2,
) -> str:
  import matplotlib

  matplotlib.use("svg")
  from matplotlib import pyplot

  settings = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "rlaif_jax",
    "axes.prop_cycle": matplotlib.cycler(color=_COLORS),
  }
  with pyplot.rc_context(settings):
    figure, axes = pyplot.subplots(
      1, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    paint(axes[0])
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    pyplot.close(figure)
  svg = text.getvalue()
  return svg[svg.index("<svg") :]


def reward_against_kl(curves: records.Row) -> str:
  """Draws gold and optimised reward against KL, one line per policy."""
  if not curves:
    return ""

  def paint(axes):
    for ax, key, label in (
      (axes[0], "gold", "gold reward"),
      (axes[1], "score", "reward that is optimised"),
    ):
      for name, curve in curves.items():
        points = curve["validation"]
        kl = [point["kl"]["value"] for point in points]
        value = [point[key]["value"] for point in points]
        error = [
          point["high"] - point["value"] for point in (p[key] for p in points)
        ]
        ax.errorbar(
          kl,
          value,
          yerr=error,
          marker="o",
          ms=3,
          lw=1.3,
          elinewidth=0.6,
          label=name,
        )
      ax.set_xlabel("KL to SFT, nats per response")
      ax.set_ylabel(label)
    axes[0].legend(frameon=False)

  return _draw(9.0, 2, paint)


def against_kl(lines: Mapping[str, Mapping[str, Sequence[Any]]]) -> str:
  """Draws panels of quantities against KL, one line per arm.

  Args:
    lines: arm -> quantity -> points (KL, value, error); a quantity without
      points has no panel.
  """
  panels = [
    (name, label)
    for name, label in (
      ("gold", "gold reward"),
      ("proxy", "proxy reward"),
      ("deviation", "members' deviation"),
      ("tokens", "tokens"),
    )
    if any(quantities.get(name) for quantities in lines.values())
  ]
  if not panels:
    return ""

  def paint(axes):
    for ax, (name, label) in zip(axes, panels):
      for number, (arm, quantities) in enumerate(lines.items()):
        points = quantities.get(name) or []
        kl, value, error = zip(*points) if points else ((), (), ())
        ax.errorbar(
          kl,
          value,
          yerr=error,
          marker="o",
          ls="-" if number < len(_COLORS) else "--",
          ms=2,
          lw=1.2,
          elinewidth=0.5,
          label=arm,
        )
      ax.set_xlabel("KL to the first policy, nats")
      ax.set_ylabel(label)
    # Below the panels, where many names hide no line.
    axes[0].figure.legend(
      *axes[0].get_legend_handles_labels(),
      loc="outside lower left",
      ncols=len(panels),
      frameon=False,
      fontsize=7,
    )

  names_high = 0.17 * -(-len(lines) // len(panels))
  return _draw(3.2 * len(panels), len(panels), paint, height=3 + names_high)


def growth(rows: Sequence[records.Row]) -> str:
  """Draws time per token against each size, on logarithmic axes.

  Args:
    rows: with work, axis, value, us_per_token and roofline_us_per_token, which
      is drawn dashed.
  """
  names = list(dict.fromkeys(row["axis"] for row in rows))
  if not names:
    return ""
  from matplotlib import ticker

  def paint(axes):
    for ax, name in zip(axes, names):
      for i, work in enumerate(dict.fromkeys(row["work"] for row in rows)):
        own = [r for r in rows if (r["axis"], r["work"]) == (name, work)]
        values = [row["value"] for row in own]
        style = {"color": _COLORS[i], "lw": 1.2}
        times = [row["us_per_token"] for row in own]
        ax.loglog(values, times, marker="o", ms=3, label=work, **style)
        least = [row["roofline_us_per_token"] for row in own]
        ax.loglog(values, least, ls="--", label=f"{work}, roofline", **style)
      ax.set_xlabel(name)
      measured = sorted({row["value"] for row in rows if row["axis"] == name})
      ax.set_xticks(measured, [f"{value:,}" for value in measured])
      ax.minorticks_off()
      ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
      ax.yaxis.set_major_formatter("{x:,g}")
    axes[0].set_ylabel("microseconds per token")
    axes[0].legend(frameon=False, fontsize=7)

  return _draw(3.0 * len(names), len(names), paint)


def training(curves: records.Row) -> str:
  """Draws reward, KL and length of rollouts against the step."""
  if not curves:
    return ""

  def paint(axes):
    for ax, key, label in zip(
      axes, ("score", "kl", "tokens"), ("reward", "KL to SFT", "tokens")
    ):
      for name, curve in curves.items():
        rows = curve["training"]
        ax.plot(
          [r["step"] for r in rows],
          smooth([r[key] for r in rows]),
          lw=1.3,
          label=name,
        )
      ax.set_xlabel("step")
      ax.set_ylabel(label)
    axes[0].legend(frameon=False)

  return _draw(9.0, 3, paint)


def smooth(values: list[float], window: int = 9) -> list[float]:
  """Returns a centred running mean, with shorter windows at the ends."""
  half = window // 2
  parts = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
  return [sum(part) / len(part) for part in parts]


def accuracy_against_labels(rewards: records.Row) -> str:
  """Draws reward-model accuracy against the number of labels."""
  if not rewards:
    return ""

  def paint(axes):
    for name, curve in rewards.items():
      value = [row["accuracy"]["value"] for row in curve]
      low = [row["accuracy"]["value"] - row["accuracy"]["low"] for row in curve]
      high = [
        row["accuracy"]["high"] - row["accuracy"]["value"] for row in curve
      ]
      axes[0].errorbar(
        [row["labels"] for row in curve],
        value,
        yerr=[low, high],
        marker="o",
        ms=3,
        lw=1.3,
        label=name,
      )
    counts = sorted(
      {row["labels"] for rows in rewards.values() for row in rows}
    )
    axes[0].set_xscale("log")
    axes[0].set_xticks(counts, [f"{count:,}" for count in counts])
    axes[0].minorticks_off()
    axes[0].set_xlabel("labels")
    axes[0].set_ylabel("accuracy on human labels")
    axes[0].axhline(0.5, color="#888", lw=0.8, ls=":")
    axes[0].legend(frameon=False)

  return _draw(5.0, 1, paint)


def lengths(by_policy: Mapping[str, list[float]]) -> str:
  """Draws box plots of lengths."""
  if not by_policy:
    return ""

  def paint(axes):
    axes[0].boxplot(
      list(by_policy.values()), orientation="horizontal", showfliers=False
    )
    axes[0].set_yticks(range(1, len(by_policy) + 1), list(by_policy))
    axes[0].set_xlabel("characters")

  return _draw(7.0, 1, paint)


def _whiskers(estimates: list[Mapping[str, float]]) -> list[list[float]]:
  """Returns the lengths of the intervals below and above the values."""
  return [
    [e["value"] - e["low"] for e in estimates],
    [e["high"] - e["value"] for e in estimates],
  ]


def alignment_by_labeler(rows: Sequence[records.Row]) -> str:
  """Draws the agreement of labelers with humans, one line per task."""
  if not rows:
    return ""
  labelers = list(dict.fromkeys(row["labeler"] for row in rows))

  def paint(axes):
    for task in dict.fromkeys(row["task"] for row in rows):
      mine = [row for row in rows if row["task"] == task]
      found = [row["alignment"]["accuracy"] for row in mine]
      axes[0].errorbar(
        [labelers.index(row["labeler"]) for row in mine],
        [e["value"] for e in found],
        yerr=_whiskers(found),
        marker="o",
        ms=4,
        lw=1.3,
        capsize=2,
        label=task,
      )
    axes[0].set_xticks(range(len(labelers)), labelers)
    axes[0].set_xlim(-0.5, len(labelers) - 0.5)
    axes[0].set_ylabel("agrees with humans")
    axes[0].axhline(0.5, color="#888", lw=0.8, ls=":")
    axes[0].legend(frameon=False)

  return _draw(6.0, 1, paint)


def alignment_grid(rows: Sequence[records.Row]) -> str:
  """Draws the agreement of every cell with humans, one column per task."""
  rows = [row for row in rows if row["alignment"] is not None]
  if not rows:
    return ""
  tasks = list(dict.fromkeys(row["task"] for row in rows))
  labelers = list(dict.fromkeys(row["labeler"] for row in rows))

  def paint(axes):
    for ax, task in zip(axes, tasks, strict=True):
      cells = list(dict.fromkeys(r["cell"] for r in rows if r["task"] == task))
      for number, labeler in enumerate(labelers):
        mine = [
          r for r in rows if r["task"] == task and r["labeler"] == labeler
        ]
        found = [r["alignment"]["accuracy"] for r in mine]
        shift = 0.12 * (number - (len(labelers) - 1) / 2)
        ax.errorbar(
          [e["value"] for e in found],
          [cells.index(r["cell"]) + shift for r in mine],
          xerr=_whiskers(found),
          fmt="o",
          ms=3,
          elinewidth=0.8,
          label=labeler,
        )
      ax.set_yticks(range(len(cells)), cells)
      ax.invert_yaxis()
      ax.axvline(0.5, color="#888", lw=0.8, ls=":")
      ax.set_title(task)
      ax.set_xlabel("agrees with humans")
    axes[0].legend(frameon=False)

  longest = max(len({r["cell"] for r in rows if r["task"] == t}) for t in tasks)
  return _draw(
    5.0 * len(tasks), len(tasks), paint, height=max(3.2, 0.4 * longest)
  )


def reliability(rows: Sequence[records.Row]) -> str:
  """Draws the fraction of correct labels against confidence, a line per row."""
  rows = [row for row in rows if row["calibration"]["bins"]]
  if not rows:
    return ""

  def paint(axes):
    axes[0].plot([0.5, 1.0], [0.5, 1.0], color="#888", lw=0.8, ls=":")
    for row in rows:
      bins = row["calibration"]["bins"]
      correct = [b["correct"] for b in bins]
      axes[0].errorbar(
        [b["confidence"] for b in bins],
        [e["value"] for e in correct],
        yerr=_whiskers(correct),
        marker="o",
        ms=3,
        lw=1.2,
        elinewidth=0.6,
        label=f"{row['labeler']}, {row['task']}",
      )
    axes[0].set_xlabel("confidence of the label")
    axes[0].set_ylabel("correct")
    axes[0].legend(frameon=False)

  return _draw(5.0, 1, paint)
