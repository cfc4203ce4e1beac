# SPDX-License-Identifier: Apache-2.0
"""A directory belongs to one configuration."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from rlaif_jax.cli import output_dirs
from rlaif_jax.core import job_spec

RIGID = job_spec.JobSpec()
LOOSE = job_spec.JobSpec(overridable=("budget_usd",))
CONFIG = "label.limit = 4\nlabel.budget_usd = 1.0\n"


def test_the_same_configuration_continues(tmp_path):
  output_dirs.claim(tmp_path / "run", CONFIG, RIGID)
  output_dirs.claim(tmp_path / "run", CONFIG, RIGID)
  assert (tmp_path / "run" / "config.gin").read_text() == CONFIG


def test_another_is_refused_and_the_difference_shown(tmp_path):
  output_dirs.claim(tmp_path, CONFIG, RIGID)
  with pytest.raises(ValueError, match=r"(?s)- label.limit = 4.*\+ .* = 5"):
    output_dirs.claim(tmp_path, CONFIG.replace("4", "5"), LOOSE)


def test_a_budget_may_be_raised(tmp_path):
  output_dirs.claim(tmp_path, CONFIG, RIGID)
  more = CONFIG.replace("1.0", "2.0")
  with pytest.raises(ValueError, match="budget_usd = 2.0"):
    output_dirs.claim(tmp_path, more, RIGID)
  output_dirs.claim(tmp_path, more, LOOSE)
  output_dirs.claim(tmp_path, "label.limit = 4\n", LOOSE)


def test_a_field_of_a_config_may_be_raised(tmp_path):
  config = CONFIG + "label.store = @store/StoreConfig()\n"
  config += "\nstore/StoreConfig.budget_usd = 1.0\n# x/StoreConfig.b = inf\n"
  output_dirs.claim(tmp_path, config, LOOSE)
  output_dirs.claim(tmp_path, config.replace("1.0", "9.0"), LOOSE)
  with pytest.raises(ValueError, match="another configuration"):
    output_dirs.claim(tmp_path, config.replace("b = inf", "b = 1"), LOOSE)


def test_an_address_is_no_folder():
  with pytest.raises(ValueError, match="gs:/bucket/run, an address"):
    output_dirs.claim(pathlib.Path("gs://bucket/run"), CONFIG, RIGID)


def test_a_folder_of_somebody_else_is_refused(tmp_path):
  for name in ("a.txt", "b.txt", "model", "z"):
    (tmp_path / name).mkdir()
  with pytest.raises(ValueError, match=r"a.txt, b.txt, model and 1 more.*new"):
    output_dirs.claim(tmp_path, CONFIG, RIGID)
  assert not (tmp_path / "config.gin").exists()
  with pytest.raises(ValueError, match="a file; name a folder"):
    (tmp_path / "file").touch()
    output_dirs.claim(tmp_path / "file", CONFIG, RIGID)


def test_a_run_killed_before_its_configuration_starts_again(tmp_path):
  for name in (".config.gin.0a.partial", ".lock.1", ".lock.0b.clock"):
    (tmp_path / name).touch()
  output_dirs.claim(tmp_path, CONFIG, RIGID)
  assert (tmp_path / "config.gin").read_text() == CONFIG


@pytest.mark.parametrize("name", ["model", "adapter"])
def test_what_the_run_would_replace_is_checked_first(tmp_path, name):
  output_dirs.claim(tmp_path, CONFIG, RIGID)
  (tmp_path / name).mkdir()
  (tmp_path / name / "mine").touch()
  with pytest.raises(ValueError, match=f"{name} holds files that no job"):
    output_dirs.claim(tmp_path, CONFIG, RIGID)


@dataclasses.dataclass
class Source:
  examples_file: str = ""
  store_dir: str = ""


@pytest.mark.parametrize(
  "arguments, named",
  [
    ({"source": "{}/model"}, "source"),
    ({"init_from": "{}/model"}, "init_from"),
    ({"data": Source(examples_file="{}/rows.jsonl")}, "examples_file"),
    ({"tasks": {"a": "{}/model"}}, "a"),
    ({"parts": ({"x_dir": "{}"},)}, "x_dir"),
    ({"source": "link"}, "source"),
    ({"data": Source(store_dir="{}/model")}, ""),
    ({"name": "{}/none", "title": "run"}, ""),
    ({"source": "elsewhere", "runs_dir": "."}, ""),
  ],
)
def test_an_input_inside_the_directory_is_refused(
  tmp_path, monkeypatch, arguments, named
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "run" / "model").mkdir(parents=True)
  (tmp_path / "link").symlink_to(tmp_path / "run")

  def placed(value):
    if isinstance(value, dict):
      return {key: placed(part) for key, part in value.items()}
    if isinstance(value, tuple):
      return tuple(placed(part) for part in value)
    if isinstance(value, Source):
      return Source(**placed(vars(value)))
    return value.format(tmp_path / "run")

  if not named:
    output_dirs.check_apart(pathlib.Path("run"), placed(arguments))
    return
  with pytest.raises(ValueError, match=f"^{named}: .* is read and is inside"):
    output_dirs.check_apart(pathlib.Path("run"), placed(arguments))
