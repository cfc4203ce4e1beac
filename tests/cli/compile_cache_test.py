# SPDX-License-Identifier: Apache-2.0
"""The cache is on by default; variables move it or disable it."""

from __future__ import annotations

import grp
import os
import pathlib
import pwd
import subprocess
import sys

import pytest

from rlaif_jax.cli import compile_cache


def test_cache_dir():
  home = {"XDG_CACHE_HOME": "/c"}
  default = compile_cache.cache_dir(home)
  assert pathlib.Path(default).parts[:3] == ("/", "c", "rlaif_jax")
  assert pathlib.Path(default).parent.name == "rlaif_jax"
  assert compile_cache.cache_dir({"RLAIF_JAX_CACHE": "off", **home}) == ""
  assert (
    compile_cache.cache_dir({"RLAIF_JAX_CACHE": "/mine", **home}) == "/mine"
  )
  both = {"RLAIF_JAX_CACHE": "off", "JAX_COMPILATION_CACHE_DIR": "/theirs"}
  assert compile_cache.cache_dir(both) == "/theirs"
  assert compile_cache.cache_dir({}).startswith(str(pathlib.Path.home()))


def test_jax_variable_is_set_unless_the_cache_is_off(tmp_path, capsys):
  environ = {"RLAIF_JAX_CACHE": "off"}
  compile_cache.enable(environ)
  assert environ == {"RLAIF_JAX_CACHE": "off"}
  mine = tmp_path / "some" / "mine"
  environ = {"RLAIF_JAX_CACHE": str(mine)}
  compile_cache.enable(environ)
  assert environ["JAX_COMPILATION_CACHE_DIR"] == str(mine)
  assert mine.stat().st_mode & 0o777 == 0o700
  bucket = {"JAX_COMPILATION_CACHE_DIR": "gs://bucket/cache"}
  compile_cache.enable(bucket)
  assert bucket == {"JAX_COMPILATION_CACHE_DIR": "gs://bucket/cache"}
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("variable", [compile_cache.OURS, compile_cache.JAX])
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_folder_that_others_can_write_is_not_used(
  tmp_path, variable, mode, capsys
):
  open_to_all = tmp_path / "cache"
  open_to_all.mkdir()
  open_to_all.chmod(mode)
  environ = {variable: str(open_to_all)}
  compile_cache.enable(environ)
  assert compile_cache.JAX not in environ
  (line,) = capsys.readouterr().err.splitlines()
  assert f"others can write {open_to_all}; type: rm -r" in line
  assert "set RLAIF_JAX_CACHE" in line


def test_parents_matter_unless_they_have_the_sticky_bit(tmp_path):
  shared = tmp_path / "shared"
  shared.mkdir()
  shared.chmod(0o777)
  assert f"chmod go-w '{shared}'" in compile_cache.find_risk(f"{shared}/mine")
  shared.chmod(0o1777)
  assert compile_cache.find_risk(f"{shared}/mine") == ""
  shared.chmod(0o777)
  link = tmp_path / "link"
  link.symlink_to(shared / "mine")
  assert "chmod go-w" in compile_cache.find_risk(str(link))
  shared.chmod(0o755)
  environ = {compile_cache.JAX: str(link)}
  compile_cache.enable(environ)
  assert environ[compile_cache.JAX] == str(shared / "mine")


def test_a_group_may_write_if_it_is_the_users_own(tmp_path, monkeypatch):
  folder = tmp_path / "cache"
  folder.mkdir()
  folder.chmod(0o770)
  name, other = pwd.getpwuid(os.geteuid()).pw_name, "other"
  for group, members, is_fine in (
    (name, [], True),
    (name, [name], True),
    (name, [other], False),
    ("staff", [], False),
  ):
    table = [grp.struct_group((group, "x", 7, members))] * 2**16
    monkeypatch.setattr(compile_cache.grp, "getgrgid", table.__getitem__)
    assert (compile_cache.find_risk(str(folder)) == "") == is_fine
  monkeypatch.setattr(compile_cache.grp, "getgrgid", {}.__getitem__)
  assert "others can write" in compile_cache.find_risk(str(folder))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_folders_parents_and_files_of_other_users_are_not_used(tmp_path):
  folder = tmp_path / "cache"
  assert compile_cache.find_risk(str(folder)) == ""
  (folder / "program").write_text("x")
  assert compile_cache.find_risk(str(folder)) == ""
  for path in (folder / "program", folder, tmp_path):
    os.chown(path, 12345, -1)
    risk = compile_cache.find_risk(str(folder))
    assert f"{path} belongs to user 12345" in risk
    os.chown(path, 0, -1)


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path):
  (tmp_path / "file").write_text("x")
  for path in ("file", "file/cache"):
    assert "that you can write" in compile_cache.find_risk(f"{tmp_path}/{path}")


def test_a_job_prints_the_cache_dir(tmp_path):
  environ = {k: v for k, v in os.environ.items() if k != compile_cache.JAX}

  def said(cache, out):
    command = [sys.executable, "-m", "rlaif_jax.main", "--job=report"]
    command += [f"--output_dir={tmp_path / out}", f"--runs_dir={tmp_path}"]
    done = subprocess.run(
      command,
      env=environ | {"RLAIF_JAX_CACHE": cache},
      capture_output=True,
      text=True,
      check=False,
    )
    assert "usage" not in done.stderr
    return [x for x in done.stdout.splitlines() if "compiled" in x]

  kept = tmp_path / "kept"
  assert said(str(kept), "a") == [f"compiled programs are cached in {kept}"]
  assert said("off", "b") == []
