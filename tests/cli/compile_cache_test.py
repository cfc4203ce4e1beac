# SPDX-License-Identifier: Apache-2.0
"""The cache is on by default; variables move it or disable it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

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


def test_jax_variable_is_set_unless_the_cache_is_off():
  environ = {"RLAIF_JAX_CACHE": "off"}
  compile_cache.enable(environ)
  assert environ == {"RLAIF_JAX_CACHE": "off"}
  environ = {"RLAIF_JAX_CACHE": "/mine"}
  compile_cache.enable(environ)
  assert environ["JAX_COMPILATION_CACHE_DIR"] == "/mine"


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
