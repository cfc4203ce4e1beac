# SPDX-License-Identifier: Apache-2.0
"""One name per class, and dataclasses whose annotations are checked."""

from __future__ import annotations

import ast
import collections

from tests.house import source

# Names that still have two classes each; shorten this list.
TWO_CLASSES = {
  "Estimate",
}

# Annotations that `core.validation` reads.
CHECKED = ("Literal[", "Bounds(", "OneOf(", "validation.")


def bases(cls: ast.ClassDef) -> set[str]:
  """The names of the base classes, without their modules."""
  return {ast.unparse(base).rpartition(".")[2] for base in cls.bases}


def validated() -> set[str]:
  """The names of `Validated` and of all classes that derive from it."""
  names, before = {"Validated"}, 0
  while before < len(names):
    before = len(names)
    for path in source.modules():
      for cls in source.dataclasses(source.tree(path)):
        if bases(cls) & names:
          names.add(cls.name)
  return names


def test_dataclasses_with_limits_are_validated():
  """A choice or bound in an annotation has no effect without the base class."""
  wrong, known = [], validated()
  for path in source.modules():
    for cls in source.dataclasses(source.tree(path)):
      limits = [
        field.target.id
        for field in cls.body
        if isinstance(field, ast.AnnAssign)
        and any(mark in ast.unparse(field.annotation) for mark in CHECKED)
      ]
      if limits and cls.name not in known:
        wrong.append(f"{source.short(path)}: {cls.name} limits {limits}")
  assert not wrong, "derive from validation.Validated:\n" + "\n".join(wrong)


def test_own_checks_follow_the_base_class():
  """A `__post_init__` that does not call the base class drops its checks."""
  wrong, known = [], validated()
  for path in source.modules():
    for cls in source.dataclasses(source.tree(path)):
      if cls.name not in known:
        continue
      for method in cls.body:
        if getattr(method, "name", "") == "__post_init__":
          if ast.unparse(method.body[0]) != "super().__post_init__()":
            wrong.append(f"{source.short(path)}: {cls.name}")
  assert not wrong, "begin with super().__post_init__():\n" + "\n".join(wrong)


def test_classes_have_names_of_their_own():
  """Two public classes of one name cannot be told apart in gin and in docs."""
  places = collections.defaultdict(list)
  for path in source.modules():
    for node in source.tree(path).body:
      if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        places[node.name].append(f"{source.short(path)}:{node.lineno}")
  shared = {
    name: found
    for name, found in places.items()
    if len(found) > 1 and name not in TWO_CLASSES
  }
  assert not shared, "rename one of each:\n" + "\n".join(
    f"{name}: {', '.join(found)}" for name, found in shared.items()
  )
