# SPDX-License-Identifier: Apache-2.0
"""Builds sdist and wheel, and uses the wheel outside the checkout.

Needs no network: the build runs in this environment, and the new environment
sees this one's libraries.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

import rlaif_jax
from tests.house import source

_BUILD = """
import sys
import setuptools.build_meta as backend
backend.build_sdist(sys.argv[1])
"""

# Files that the wheel leaves out.
_NOT_SHIPPED = {"__pycache__", ".pytest_cache"}


def shipped_files():
  """Names in the wheel of all files of the package and of gin_configs."""
  names = set()
  for folder, prefix in (("rlaif_jax", ""), ("gin_configs", "rlaif_jax/")):
    for path in (source.ROOT / folder).rglob("*"):
      if path.is_file() and not _NOT_SHIPPED & set(path.parts):
        names.add(prefix + path.relative_to(source.ROOT).as_posix())
  return names


def run(*command, cwd, **environment):
  done = subprocess.run(
    [str(word) for word in command],
    cwd=cwd,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def pip(*arguments, cwd):
  options = ("--quiet", "--no-index", "--no-deps")
  return run(sys.executable, "-m", "pip", *arguments, *options, cwd=cwd)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
  """The source distribution, built from a copy of the checkout."""
  folder = tmp_path_factory.mktemp("sdist")
  copy = folder / "checkout"
  copy.mkdir()
  for name in ("rlaif_jax", "gin_configs"):
    skip = shutil.ignore_patterns(*_NOT_SHIPPED)
    shutil.copytree(source.ROOT / name, copy / name, ignore=skip)
  for path in source.ROOT.iterdir():
    if path.is_file():
      shutil.copy(path, copy)
  run(sys.executable, "-c", _BUILD, folder, cwd=copy)
  (found,) = folder.glob("*.tar.gz")
  return found


@pytest.fixture(scope="module")
def wheel(sdist):
  """The wheel, built from the source distribution."""
  options = ("--no-build-isolation", f"--wheel-dir={sdist.parent}")
  pip("wheel", sdist, *options, cwd=sdist.parent)
  (found,) = sdist.parent.glob("*.whl")
  return found


@pytest.fixture(scope="module")
def environment(wheel):
  """Folder of the programs of a new environment with the wheel installed."""
  folder = wheel.parent / "environment"
  venv.create(folder, with_pip=False)
  python = folder / "bin" / "python"
  pip("--python", python, "install", wheel, cwd=wheel.parent)
  (packages,) = folder.glob("lib/python*/site-packages")
  # Dependencies only: Python ignores the .pth files of such a folder, so an
  # editable install of the checkout stays invisible.
  here = sysconfig.get_path("purelib")
  (packages / "dependencies.pth").write_text(f"{here}\n")
  return folder / "bin"


@pytest.fixture
def use(environment, tmp_path):
  """Runs a program of the new environment in an empty folder."""

  def start(program, *arguments):
    return run(environment / program, *arguments, cwd=tmp_path, PYTHONPATH="")

  return start


def test_sdist_and_wheel_hold_every_file(sdist, wheel):
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
  assert {n for n in names if ".dist-info/" not in n} == shipped_files()
  with tarfile.open(sdist) as archive:
    names = {n.partition("/")[2] for n in archive.getnames()}
  assert {"LICENSE", "README.md", "constraints.txt", "setup.py"} <= names


def test_the_package_is_imported_from_the_wheel(use, environment):
  code = "import rlaif_jax; print(rlaif_jax.__file__, rlaif_jax.__version__)"
  path, version = use("python", "-c", code).split()
  assert path.startswith(str(environment.parent))
  assert version == rlaif_jax.__version__


def test_console_command_and_module_are_the_same(use):
  text = use("rlaif-jax", "--help")
  assert "--job=JOB" in text and "train_policy" in text
  assert text == use("python", "-m", "rlaif_jax.main", "--help")


@pytest.mark.parametrize("folder", ["gin_configs/recipes", "recipes"])
def test_recipes_are_found_from_an_empty_folder(use, folder):
  recipe = f"{folder}/docstring_sft.gin"
  flags = ("--job=train_sft", f"--gin_file={recipe}", "--dry_run")
  text = use("rlaif-jax", *flags, "--gin.SFTData.data_dir=x")
  assert "train_sft.name = 'sft'" in text


def test_a_job_runs(use, tmp_path):
  (tmp_path / "sft").mkdir()
  result = {"job": "train_sft", "seconds": 1.0, "steps": 3}
  (tmp_path / "sft" / "result.json").write_text(json.dumps(result))
  use("rlaif-jax", "--job=report", "--runs_dir=.", "--output_dir=page")
  assert (tmp_path / "page" / "result.json").exists()
  assert list((tmp_path / "page").glob("*.html"))


def test_templates_are_shipped(use):
  code = "from rlaif_jax.text import template_files as t; print(t.names())"
  assert "docstring_pairwise" in use("python", "-c", code)
