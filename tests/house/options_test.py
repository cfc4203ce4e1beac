# SPDX-License-Identifier: Apache-2.0
"""An option that nothing reads is a lie; so is a parameter of a job."""

from __future__ import annotations

import ast
import collections

from tests.house import source

# Class.field that is read with getattr: say by which line, and keep it short.
READ_BY_REFLECTION = {
  # evaluation.gold weighs its parts by name, for name in PARTS.
  "GoldConfig.coverage",
  "GoldConfig.faithfulness",
  "GoldConfig.brevity",
  "GoldConfig.no_repetition",
  "GoldConfig.form",
  # It permits a host, which the class checks itself.
  "ServerConfig.allow_remote",
}


def reads(module: ast.AST) -> set[str]:
  """Attribute names that are read anywhere in a tree."""
  return {
    node.attr
    for node in ast.walk(module)
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
  }


def test_every_config_field_is_read():
  trees = {path: source.tree(path) for path in source.modules()}
  unread, excused = [], set()
  # Number of top-level statements that read a name.
  readers = collections.Counter(
    name
    for module in trees.values()
    for node in module.body
    for name in reads(node)
  )
  for path, module in trees.items():
    for cls in source.dataclasses(module):
      if not cls.name.endswith(("Config", "Data")):
        continue
      own = reads(cls)
      inside = set().union(
        *(
          reads(node)
          for node in cls.body
          if getattr(node, "name", "") != "__post_init__"
        )
      )
      for field in cls.body:
        if not isinstance(field, ast.AnnAssign):
          continue
        name = field.target.id
        if f"{cls.name}.{name}" in READ_BY_REFLECTION:
          excused.add(f"{cls.name}.{name}")
        elif name not in inside and readers[name] == (name in own):
          unread.append(f"{source.short(path)}: {cls.name}.{name}")
  assert not unread, "nothing reads:\n" + "\n".join(unread)
  assert excused == READ_BY_REFLECTION, "these are gone: take them off the list"


def test_every_parameter_is_used():
  """`del name` marks a parameter that a contract requires."""
  unused = []
  for path in source.modules():
    if path.name == "protocols.py":
      continue
    for f in source.functions(source.tree(path)):
      arguments = f.args.posonlyargs + f.args.args + f.args.kwonlyargs
      used = {
        node.id
        for statement in f.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name)
      }
      for argument in arguments:
        name = argument.arg
        if name not in used and name not in ("self", "cls"):
          if not name.startswith("_"):
            unused.append(f"{source.short(path)}:{f.lineno} {f.name}({name})")
  assert not unused, "nothing reads:\n" + "\n".join(unused)
