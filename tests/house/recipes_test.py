# SPDX-License-Identifier: Apache-2.0
"""Every recipe runs by the command in its own header, as far as a dry run."""

from __future__ import annotations

import collections
import dataclasses
import re
import shlex

import pytest

from rlaif_jax import main
from rlaif_jax.cli import configuration
from rlaif_jax.cli import gin_reader
from rlaif_jax.cli import job_table
from tests.house import source

CONFIGS = source.ROOT / "gin_configs"
RECIPES = sorted((CONFIGS / "recipes").glob("*.gin"))
# Files of macros, one of which a user adds to a recipe.
SIZES = sorted(
  path
  for family in ("t5_1_1", "decoder")
  for path in (CONFIGS / "models").glob(f"{family}_*.gin")
)
HEADER = ("Reproduces", "Cost", "Expected", "Command")


def names(paths):
  return [path.stem for path in paths]


def shown(path):
  return path.relative_to(source.ROOT).as_posix()


def command_of(path):
  """The header's command, and its next one, as lists of arguments."""
  found = {}
  for key in ("Command", "Next"):
    line = re.search(rf"^# {key}: *(.*)$", source.text(path), re.M)
    if line:
      words = shlex.split(line[1])
      assert words[:3] == ["python", "-m", "rlaif_jax.main"], words
      found[key] = words[3:]
  return found


def read(path):
  return list(gin_reader.read(shown(path)))


def test_there_are_recipes():
  assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=names(RECIPES))
def test_header(path):
  lines = source.text(path).splitlines()
  for number, key in enumerate(HEADER):
    assert lines[number].startswith(f"# {key}: "), (
      f"{shown(path)}:{number + 1} must begin with '# {key}: '"
    )
  assert shown(path) in lines[3], "the command names its own recipe"


@pytest.mark.parametrize("path", RECIPES, ids=names(RECIPES))
def test_commands_pass_a_dry_run(path, monkeypatch, capsys):
  monkeypatch.chdir(source.ROOT)
  for arguments in command_of(path).values():
    code = main.main([*arguments, "--dry_run"])
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", RECIPES, ids=names(RECIPES))
def test_a_value_is_set_in_one_place(path):
  """REQUIRED may be filled later; a value that is set stays."""
  seen = collections.defaultdict(list)
  for b in read(path):
    required = isinstance(b.value, configuration.Macro) and b.value.is_required
    seen[b.scope, b.name, b.field].append((required, b.where))
  for key, places in seen.items():
    if not key[2]:  # A macro.
      values = [where for required, where in places if not required]
      assert len(values) <= 1, f"{key[1]} is set at {values}"
    assert not any(required for required, _ in places[1:]), (
      f"{key} is made REQUIRED after it was set: {places}"
    )


def test_every_shared_line_serves_some_recipe():
  """Some recipe reads every line of an included file."""
  jobs = job_table.load_all()
  lines, served = set(), set()
  for path in RECIPES:
    bindings = read(path)
    for word in command_of(path)["Command"]:  # A size beside the recipe.
      if word.startswith("--gin_file=") and shown(path) not in word:
        bindings += gin_reader.read(word.removeprefix("--gin_file="))
    for b in bindings:
      if not b.is_shared:
        continue
      lines.add(b.where)
      if b.where in served:
        continue
      others = [x for x in bindings if x is not b]
      try:
        configuration.check(
          [*others, dataclasses.replace(b, is_shared=False)], jobs
        )
        served.add(b.where)
      except configuration.ConfigurationError:
        continue
  assert lines == served, f"no recipe reads {sorted(lines - served)}"


def test_sizes_of_a_family_set_the_same_macros():
  """A recipe that includes the family takes any of its sizes."""
  families = collections.defaultdict(set)
  for path in SIZES:
    values = read(path)
    assert all(not b.field for b in values), f"{shown(path)}: macros only"
    family = path.stem.rpartition("_")[0]
    families[family].add(frozenset(b.name for b in values))
  for family, macros in families.items():
    assert len(macros) == 1, f"{family}: sizes set different macros"
    text = source.text(CONFIGS / "models" / f"{family}.gin")
    assert set(re.findall(r"%(\w+)", text)) == set(*macros)


def test_every_file_is_included_somewhere():
  included = {
    name
    for path in CONFIGS.rglob("*.gin")
    for name in re.findall(r'^include ["\'](.*)["\']', source.text(path), re.M)
  }
  others = {
    shown(p)
    for p in CONFIGS.rglob("*.gin")
    if p.parent.name != "recipes" and p not in SIZES
  }
  assert others == included
  for name in included:
    nested = source.text(source.ROOT / name)
    assert "\ninclude" not in f"\n{nested}", f"{name}: includes never nest"
