#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs recipes with several seeds, and tabulates their results.

    python launch/sweep.py --seeds 0 1 2 --output_dir=runs/sweep \
        gin_configs/recipes/docstring_sft.gin [-- --NAME=VALUE ...]

Each recipe is run by the command in its header, with another seed and
output_dir; arguments after `--` are added to every command. Finished runs are
not run again, interrupted runs resume, and failed runs do not stop the others.
The table has the mean over seeds of every number in result.json, with a 95 %
interval (Student's t; none with one seed).
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import shlex
import statistics
import subprocess
import sys

from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parents[1]


def command_of(recipe: pathlib.Path, seed: int, output_dir: pathlib.Path):
  """Returns the words of the recipe's command with a seed and a directory.

  Raises:
    ValueError: if the recipe's header has no command.
  """
  for line in recipe.read_text("utf-8").splitlines():
    if line.startswith("# Command: python -m rlaif_jax.main "):
      words = shlex.split(line.removeprefix("# Command: python "))
      break
  else:
    raise ValueError(f"{recipe} has no line '# Command: python -m ...'")
  words = [word for word in words if not word.startswith("--output_dir=")]
  return [
    sys.executable,
    *words,
    f"--seed={seed}",
    f"--output_dir={output_dir}",
  ]


def numbers(result: dict, prefix: str = "") -> dict[str, float]:
  """Returns all numbers of a result, nested ones as "outer.inner"."""
  found = {}
  for name, value in result.items():
    if isinstance(value, dict):
      found |= numbers(value, f"{prefix}{name}.")
    elif isinstance(value, int | float) and not isinstance(value, bool):
      found[prefix + name] = float(value)
  return found


def summary(values: list[float]) -> dict[str, float | int | None]:
  """Returns the mean over runs and half the width of its 95 % interval."""
  n, half = len(values), None
  if n > 1:
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n)
  return {"mean": statistics.fmean(values), "half": half, "n": n}


def table(found: dict[str, dict[str, dict]], failed: list[str]) -> str:
  """Returns a Markdown table with one line per recipe and number."""
  lines = ["| recipe | number | mean | 95 % interval | n |", "|---" * 5 + "|"]
  for recipe, rows in found.items():
    for name, row in rows.items():
      mean, half = row["mean"], row["half"]
      interval = "-"
      if half is not None:
        interval = f"[{mean - half:.4g}, {mean + half:.4g}]"
      lines.append(
        f"| {recipe} | {name} | {mean:.4g} | {interval} | {row['n']} |"
      )
  lines += [f"\nFailed: {name}" for name in failed]
  return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
  """Writes sweep.md and sweep.json; returns 1 if a run failed."""
  end = argv.index("--") if "--" in argv else len(argv)
  argv, more = argv[:end], argv[end + 1 :]
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("recipes", nargs="+", type=pathlib.Path)
  parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
  parser.add_argument("--output_dir", type=pathlib.Path, required=True)
  parser.add_argument("--dry_run", action="store_true")
  args = parser.parse_args(argv)
  found, failed = {}, []
  for recipe in args.recipes:
    results = []
    for seed in args.seeds:
      directory = args.output_dir / recipe.stem / f"seed{seed}"
      command = command_of(recipe, seed, directory) + more
      print("==", shlex.join(command), flush=True)
      if args.dry_run:
        continue
      done = subprocess.run(command, cwd=ROOT, check=False)
      if done.returncode:
        failed.append(f"{recipe.stem} seed {seed} (code {done.returncode})")
        continue
      text = (ROOT / directory / "result.json").read_text("utf-8")
      results.append(numbers(json.loads(text)))
    common = set.intersection(*map(set, results)) if results else set()
    found[recipe.stem] = {
      name: summary([result[name] for result in results])
      for name in sorted(common)
    }
  if args.dry_run:
    return 0
  directory = ROOT / args.output_dir
  directory.mkdir(parents=True, exist_ok=True)
  text = table(found, failed)
  (directory / "sweep.md").write_text(text, "utf-8")
  (directory / "sweep.json").write_text(json.dumps(found, indent=1), "utf-8")
  print(text)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
