# SPDX-License-Identifier: Apache-2.0
"""Scopes, macros, references and implied configs become arguments."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Mapping

import pytest

from rlaif_jax.cli import configuration
from rlaif_jax.cli import resolution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
  rate: float
  name: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Branch:
  leaf: Leaf | None = None
  sizes: tuple[int, ...] = ()


def job(
  *, output_dir: str, branch: Branch, second: Leaf | None = None, steps: int = 1
) -> dict[str, Any]:
  del output_dir, branch, second, steps
  return {}


JOBS = {"job": job}
REQUIRED = configuration.Macro(name="gin.REQUIRED")


def bind(key, value, *, shared=False):
  """A binding from "scope/name.field" or a macro from "NAME"."""
  scope, _, rest = key.rpartition("/")
  name, _, field = rest.partition(".")
  return configuration.Binding(
    scope=scope,
    name=name,
    field=field,
    value=value,
    where=f"file:{key}",
    is_shared=shared,
  )


def new(path):
  scope, _, name = path.rpartition("/")
  return configuration.Reference(scope=scope, name=name, is_called=True)


def macro(name):
  return configuration.Macro(name=name)


BASE = [
  bind("job.branch", new("Branch")),
  bind("Branch.leaf", new("Leaf")),
  bind("Leaf.rate", 0.5),
]


def resolve(*bindings):
  return resolution.resolve("job", [*BASE, *bindings], JOBS)


def test_builds_nested_configs():
  assert resolve() == {"branch": Branch(leaf=Leaf(rate=0.5))}


def test_later_bindings_win():
  arguments = resolve(bind("job.steps", 2), bind("job.steps", 3))
  assert arguments["steps"] == 3


def test_scopes_tell_two_of_a_kind_apart():
  arguments = resolve(
    bind("job.second", new("two/Leaf")), bind("two/Leaf.rate", 2.0)
  )
  assert arguments["branch"].leaf.rate == 0.5
  assert arguments["second"] == Leaf(rate=2.0)


def test_scope_is_inherited_inwards_and_by_prefix():
  arguments = resolution.resolve(
    "job",
    [
      bind("job.branch", new("out/in/Branch")),
      bind("Branch.leaf", new("Leaf")),
      bind("Leaf.rate", 1.0),
      bind("out/Leaf.rate", 2.0),
      bind("out/in/Leaf.name", "b"),
      bind("job.second", new("Leaf")),
    ],
    JOBS,
  )
  assert arguments["branch"].leaf == Leaf(rate=2.0, name="b")
  assert arguments["second"] == Leaf(rate=1.0)


def test_macros_reach_into_containers_and_other_macros():
  arguments = resolve(
    bind("N", macro("M")),
    bind("M", 4),
    bind("Branch.sizes", [macro("N"), 5]),
  )
  assert arguments["branch"].sizes == (4, 5)


def test_required_value_names_its_macro():
  gaps = [bind("RATE", REQUIRED), bind("Leaf.rate", macro("RATE"))]
  with pytest.raises(ValueError, match="--gin.RATE=VALUE"):
    resolve(*gaps)
  flags = [m.flag for m in resolution.missing("job", [*BASE, *gaps], JOBS)]
  assert flags == ["RATE"]
  assert resolve(*gaps, bind("RATE", 1))["branch"].leaf.rate == 1


def plain(
  *,
  output_dir: str,
  leaf: Leaf,
  steps: int,
  default: Branch = Branch(sizes=(7,)),
) -> dict[str, Any]:
  del output_dir, leaf, steps, default
  return {}


def test_all_missing_values_are_told_at_once():
  with pytest.raises(ValueError) as error:
    resolution.resolve("plain", [], {"plain": plain})
  assert "Leaf.rate=VALUE" in str(error.value)
  assert "--gin.plain.steps=VALUE" in str(error.value)


def test_a_config_parameter_needs_no_reference():
  given = [bind("Leaf.rate", 2), bind("plain.steps", 1)]
  arguments = resolution.resolve("plain", given, {"plain": plain})
  assert arguments == {"leaf": Leaf(rate=2), "steps": 1}


def test_bindings_change_a_default_config_and_keep_its_other_fields():
  given = [
    bind("Leaf.rate", 2),
    bind("plain.steps", 1),
    bind("Branch.leaf", new("b/Leaf")),
  ]
  arguments = resolution.resolve("plain", given, {"plain": plain})
  assert arguments["default"] == Branch(sizes=(7,), leaf=Leaf(rate=2))


@pytest.mark.parametrize(
  "bindings, message",
  [
    ([bind("jobb.steps", 1)], "'job'"),
    ([bind("job.step", 1)], "'steps'"),
    ([bind("job.steps", macro("NONE"))], "%NONE has no value"),
    ([bind("STEPS", 1)], "nothing uses the macro STEPS"),
    (
      [bind("A", macro("A")), bind("job.steps", macro("A"))],
      "refers to itself",
    ),
    ([bind("job.second", new("Leav"))], "'Leaf'"),
    ([bind("job.second", new("job"))], "no config is called 'job'"),
    ([bind("other/Leaf.rate", 1.0)], "nothing reads other/Leaf.rate"),
    ([bind("job.steps", 1.5)], "must be int"),
    ([bind("job.steps", True)], "must be int"),
    ([bind("Leaf.name", "c")], r"is 'c', use one of \('a', 'b'\)"),
    ([bind("Branch.sizes", ("x",))], "job.branch|Branch.sizes"),
    ([bind("job.second", 3)], "Leaf"),
    ([bind("job.output_dir", "d")], "--output_dir"),
  ],
)
def test_complaints(bindings, message):
  with pytest.raises(configuration.ConfigurationError, match=message):
    resolve(*bindings)


def test_class_without_parentheses_is_told():
  value = configuration.Reference(scope="", name="Leaf", is_called=False)
  with pytest.raises(ValueError, match=r"write @Leaf\(\)"):
    resolve(bind("job.second", value))


def test_shared_files_may_hold_what_this_recipe_does_not_read():
  resolve(bind("other/Leaf.rate", 1.0, shared=True), bind("M", 1, shared=True))
  with pytest.raises(ValueError, match="no parameter 'rat'"):
    resolve(bind("other/Leaf.rat", 1.0, shared=True))


def test_replaced_config_leaves_its_bindings_in_peace():
  arguments = resolve(bind("Branch.leaf", None))
  assert arguments["branch"].leaf is None


@pytest.mark.parametrize(
  "value, hint, expected",
  [
    (1, float, True),
    (True, float, False),
    ("x", str, True),
    (None, int | None, True),
    (None, int, False),
    ((1, "a"), tuple[int, str], True),
    ((1,), tuple[int, str], False),
    ({"a": 1}, Mapping[str, int], True),
    (object(), Any, True),
  ],
)
def test_accepts(value, hint, expected):
  assert resolution.accepts(value, hint) is expected
