# SPDX-License-Identifier: Apache-2.0
"""`Any` stays rare: most annotations name a type."""

from __future__ import annotations

import ast
import collections

from tests.house import source

# Lower this number when `Any` becomes rarer.
MOST = 40


def count(module: ast.Module) -> int:
  """Returns how often a module uses the name `Any`, but for its import."""
  return sum(
    isinstance(node, ast.Name)
    and node.id == "Any"
    or isinstance(node, ast.Attribute)
    and node.attr == "Any"
    for node in ast.walk(module)
  )


def test_count_finds_annotations_and_values():
  module = ast.parse(
    "from typing import Any\n"
    "def f(x: Any, y: dict[str, typing.Any]) -> list[Any]: return Any"
  )
  assert count(module) == 4


def test_any_is_rare():
  counts = collections.Counter(
    {source.short(path): count(source.tree(path)) for path in source.modules()}
  )
  worst = "\n".join(f"{path}: {n}" for path, n in counts.most_common(10))
  assert counts.total() <= MOST, (
    f"{counts.total()} uses of Any, at most {MOST}; name the types, such as "
    f"protocols.Params, records.Row, a TypeVar or object:\n{worst}"
  )
