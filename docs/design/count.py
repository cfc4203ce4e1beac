# SPDX-License-Identifier: Apache-2.0
"""Prints the counts of docs/design/before_after.md for this checkout.

python docs/design/count.py
"""

from __future__ import annotations

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def parameters(node: ast.FunctionDef) -> int:
  """Returns how many parameters a function has, without self and cls."""
  a = node.args
  names = [x.arg for x in a.posonlyargs + a.args + a.kwonlyargs]
  return len([name for name in names if name not in ("self", "cls")])


def main() -> None:
  """Counts modules, lines, parameters, `Any`, example lines and words."""
  paths = sorted((ROOT / "rlaif_jax").rglob("*.py"))
  texts = {path: path.read_text("utf-8") for path in paths}
  functions = [
    (parameters(node), f"{path.relative_to(ROOT)}:{node.name}")
    for path, text in texts.items()
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.FunctionDef)
  ]
  jobs = [path for path in paths if path.parent.name == "jobs"]
  lines = {path: len(text.splitlines()) for path, text in texts.items()}
  readme = (ROOT / "README.md").read_text("utf-8")
  example = re.search(r"```python\n(.*?)```", readme, re.S)
  documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
  print("modules", len(paths))
  print("lines", sum(lines.values()))
  print("lines of jobs/, longest job", sum(lines[p] for p in jobs), end=" ")
  print(max(lines[p] for p in jobs))
  print("largest parameter list", *max(functions))
  print("Any", sum(len(re.findall(r"\bAny\b", t)) for t in texts.values()))
  print("README example lines", len(example[1].splitlines()) if example else 0)
  print("README words", len(readme.split()))
  print(
    "words in docs",
    sum(len(path.read_text("utf-8").split()) for path in documents),
  )


if __name__ == "__main__":
  main()
