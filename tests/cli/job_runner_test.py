# SPDX-License-Identifier: Apache-2.0
"""Runs of two small jobs: no model, no compilation."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import sys

import pytest

from rlaif_jax import main
from rlaif_jax.cli import job_table
from rlaif_jax.core import job_spec
from rlaif_jax.engine import processes


_TRAIN = '''
"""Trains nothing.

This line is not in the list of jobs.
"""
from __future__ import annotations
import dataclasses
import math
import pathlib
from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption

CALLS = []

@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerConfig:
  """Inner."""
  scale: float = 1.0

@dataclasses.dataclass(frozen=True, kw_only=True)
class SizeConfig:
  """Sizes of nothing."""
  width: int
  inner: InnerConfig | None = None

  def __post_init__(self):
    if self.width < 1:
      raise ValueError(f"SizeConfig.width is {self.width}; it must be >= 1")

def run(*, output_dir: str, data_dir: str, size: SizeConfig,
        other: SizeConfig | None = None, num_steps: int = 3,
        rates: tuple[float, ...] = (0.5,), fail: str = "") -> dict:
  """Trains."""
  CALLS.append(dict(output_dir=output_dir, data_dir=data_dir, size=size,
                    other=other, num_steps=num_steps, rates=rates))
  inputs.note(data_dir)
  if fail == "value":
    raise ValueError("the data is empty; give another")
  if fail == "stop":
    raise preemption.Preempted("train: stopped after step 2")
  if fail == "key":
    raise KeyboardInterrupt


  if fail == "rows":
    rows = jsonl.parse_rows(data_dir, jsonl.row_of, jsonl.of_run())
    return {"rows": len(rows), "loss": {"value": math.nan}}
  return {"loss": 0.25, "steps": num_steps}
'''

_SHOW = '''
"""Shows what was trained."""
from __future__ import annotations

def run(*, output_dir: str, model_dir: str, verbose: bool = False) -> dict:
  """Shows."""
  return {"shown": model_dir}
'''

_RECIPE = """
DATA_DIR = %gin.REQUIRED
STEPS = 5
train.data_dir = %DATA_DIR
train.num_steps = %STEPS
train.size = @SizeConfig()
SizeConfig.width = 8
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
  """Two jobs in files of their own; the first one's module."""
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.chdir(tmp_path)
  names = {}
  for job, text in (("train", _TRAIN), ("show", _SHOW)):
    name = f"fake_{job}_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(text)
    names[job] = name
  monkeypatch.setattr(job_table, "JOBS", names)
  (tmp_path / "recipe.gin").write_text(_RECIPE)
  handler = signal.getsignal(signal.SIGTERM)
  job_table.load("train")
  yield sys.modules[names["train"]]
  signal.signal(signal.SIGTERM, handler)


def start(*flags, job="train", recipe="recipe.gin", output="out"):
  return main.main(
    [f"--job={job}", f"--gin_file={recipe}", f"--output_dir={output}", *flags]
  )


def test_runs_with_bindings_of_file_and_command_line(jobs, capsys):
  code = start("--gin.DATA_DIR=/some/where", "--gin.train.rates=(1.0, 2)")
  assert code == 0
  (call,) = jobs.CALLS
  assert call["data_dir"] == "/some/where"
  assert call["num_steps"] == 5
  assert call["rates"] == (1.0, 2)
  assert call["size"] == jobs.SizeConfig(width=8)
  assert call["output_dir"] == "out"
  result = json.loads(pathlib.Path("out/result.json").read_text())
  assert result["loss"] == 0.25 and result["job"] == "train"
  assert result["next"] in capsys.readouterr().out


def test_next_command_keeps_bindings_and_names_what_is_missing(jobs):
  start("--gin.DATA_DIR=a b")
  result = json.loads(pathlib.Path("out/result.json").read_text())
  assert result["next"] == (
    "python -m rlaif_jax.main --job=show --gin_file=recipe.gin "
    "'--gin.DATA_DIR=a b' --gin.show.model_dir=VALUE --output_dir=show"
  )
  assert start("--gin.show.model_dir=m", job="show", output="end") == 0
  last = json.loads(pathlib.Path("end/result.json").read_text())
  assert last["next"] == "" and last["shown"] == "m"


def test_recipe_may_say_what_is_next(jobs):
  line = "# Next: python -m rlaif_jax.main --job=x --output_dir=runs/x\n"
  pathlib.Path("said.gin").write_text(line + _RECIPE)
  start("--gin.DATA_DIR=d", recipe="said.gin", output="mine/out")
  result = json.loads(pathlib.Path("mine/out/result.json").read_text())
  assert result["next"].endswith("--job=x --output_dir=mine/x")


def test_finished_job_is_not_run_again(jobs, capsys):
  start("--gin.DATA_DIR=d")
  capsys.readouterr()
  assert start("--gin.DATA_DIR=d") == 0
  out = capsys.readouterr().out
  assert len(jobs.CALLS) == 1
  assert "already done" in out and "--job=show" in out


def test_always_rerun_job_runs_every_time(jobs, monkeypatch):
  spec = job_spec.JobSpec(always_rerun=True)
  monkeypatch.setattr(jobs, "JOB", spec, raising=False)
  for _ in range(2):
    assert start("--gin.DATA_DIR=d") == 0
  assert len(jobs.CALLS) == 2


def test_refuses_another_configuration_in_the_same_directory(jobs, capsys):
  start("--gin.DATA_DIR=d", "--gin.train.fail=value")
  assert start("--gin.DATA_DIR=d", "--gin.STEPS=6") == 2
  error = capsys.readouterr().err
  assert "+ train.num_steps = 6" in error
  assert "- train.num_steps = 5" in error
  assert "another --output_dir" in error
  assert len(jobs.CALLS) == 1


def test_another_jobs_binding_does_not_stop_this_one(jobs):
  start("--gin.DATA_DIR=d", "--gin.show.verbose=False")
  assert start("--gin.DATA_DIR=d", "--gin.show.verbose=True") == 0


def test_stored_configuration_runs_the_same(jobs):
  start("--gin.DATA_DIR=d", "--gin.train.other=@big/SizeConfig()")
  assert start(recipe="out/config.gin", output="again") == 0
  first, second = jobs.CALLS
  assert first | {"output_dir": ""} == second | {"output_dir": ""}
  texts = [pathlib.Path(d, "config.gin").read_text() for d in ("out", "again")]
  assert texts[0] == texts[1]


def test_preempted_run_exits_75_with_the_same_command(jobs, capsys):
  code = start("--gin.DATA_DIR=d", "--gin.train.fail=stop")
  assert code == 75
  error = capsys.readouterr().err
  assert "--gin.train.fail=stop" in error and "Resume" in error
  assert not pathlib.Path("out/result.json").exists()


def test_error_of_a_job_is_one_block_and_debug_raises(jobs, capsys):
  flags = ("--gin.DATA_DIR=d", "--gin.train.fail=value")
  assert start(*flags) == 2
  assert capsys.readouterr().err == ("error: the data is empty; give another\n")
  with pytest.raises(ValueError, match="the data is empty"):
    start(*flags, "--debug")


def test_dry_run_prints_everything_and_writes_nothing(jobs, capsys):
  code = main.main(
    ["--job=train", "--gin_file=recipe.gin", "--gin.DATA_DIR=d", "--dry_run"]
  )
  assert code == 0 and not jobs.CALLS
  out = capsys.readouterr().out
  assert "train.size = @size/SizeConfig()" in out
  assert "size/SizeConfig.width = 8" in out
  assert "train.rates = (0.5,)" in out
  assert not pathlib.Path("out").exists()


@pytest.mark.parametrize(
  "flags, message",
  [
    ((), "--gin.DATA_DIR=VALUE"),
    (("--gin.DATA_DIRR=d",), "DATA_DIR"),
    (("--gin.train.num_step=1",), "'num_steps'"),
    (("--gin.trian.num_steps=1",), "'train'"),
    (("--gin.train.num_steps=many",), "'many', which is str"),
    (("--gin.SizeConfig.width=0", "--gin.DATA_DIR=d"), "must be >= 1"),
    (("--gin.train.num_steps=%STEP",), "'STEPS'"),
    (("--gin.train.output_dir=x",), "--output_dir"),
    (("--gin.a/SizeConfig.width=3",), "nothing reads"),
    (("--gin.train.size=@Sizes()",), "'SizeConfig'"),
    (("--gin_fil=x",), "'--gin_file'"),
    (("--gin_file=none.gin",), "none.gin does not exist"),
    (("--job=trian",), "'train'"),
    (("--gin.3x=1",), "no name"),
  ],
)
def test_bad_input_is_told_before_anything_runs(jobs, capsys, flags, message):
  assert start(*flags) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and "Traceback" not in error
  assert message in error
  assert not jobs.CALLS and not pathlib.Path("out").exists()


def test_bad_syntax_names_file_and_line(jobs, capsys):
  pathlib.Path("bad.gin").write_text("STEPS = 3\ntrain.num_steps = = 4\n")
  assert start(recipe="bad.gin") == 2
  assert "bad.gin:2" in capsys.readouterr().err
  pathlib.Path("bad.gin").write_text("include 'bad.gin'\n")
  assert start(recipe="bad.gin") == 2
  assert "includes itself" in capsys.readouterr().err


def test_included_file_may_serve_others_but_not_name_the_unknown(jobs, capsys):
  pathlib.Path("shared.gin").write_text("a/SizeConfig.width = 3\nUNUSED = 1\n")
  pathlib.Path("over.gin").write_text("include 'shared.gin'\n" + _RECIPE)
  assert start("--gin.DATA_DIR=d", recipe="over.gin") == 0
  pathlib.Path("shared.gin").write_text("\nSizeConfig.with = 3\n")
  assert start("--gin.DATA_DIR=d", recipe="over.gin", output="b") == 2
  assert "shared.gin:2" in capsys.readouterr().err


def test_includes_are_found_and_later_values_win(jobs):
  pathlib.Path("over.gin").write_text("include 'recipe.gin'\nSTEPS = 9\n")
  assert start("--gin.DATA_DIR=d", recipe="over.gin") == 0
  assert jobs.CALLS[0]["num_steps"] == 9


def test_help_lists_jobs_and_their_parameters(jobs, capsys):
  assert main.main(["--help"]) == 0
  out = capsys.readouterr().out
  assert "Trains nothing." in out and "not in the list" not in out
  assert main.main(["--job=train", "--help"]) == 0
  out = capsys.readouterr().out
  assert "train.num_steps: int = 3" in out
  assert "SizeConfig.width: int" in out and "InnerConfig.scale" in out
  assert "output_dir" not in out.partition("Parameters:")[2]


@pytest.mark.parametrize(
  "environment, is_error",
  [
    ({}, False),
    ({"JAX_NUM_PROCESSES": "1"}, False),
    ({"JAX_NUM_PROCESSES": "2"}, True),
    ({"SLURM_NTASKS": "4"}, False),
    ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[1-2]"}, True),
  ],
)
def test_several_processes_need_a_multihost_job(
  jobs, capsys, monkeypatch, environment, is_error
):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert start("--gin.DATA_DIR=d") == (2 if is_error else 0)
  assert ("train runs in one process" in capsys.readouterr().err) == is_error


def test_a_multihost_job_starts_the_processes(jobs, monkeypatch):
  spec = job_spec.JobSpec(multihost=True)
  monkeypatch.setattr(jobs, "JOB", spec, raising=False)
  calls = []
  monkeypatch.setattr(processes, "start", lambda: calls.append("start"))
  assert start("--gin.DATA_DIR=d") == 0
  assert calls == ["start"] and len(jobs.CALLS) == 1


def changed_data(*flags):
  """A run, then one of the same command after its data has changed."""
  pathlib.Path("rows").write_text("old")
  start("--gin.DATA_DIR=rows", *flags)
  pathlib.Path("rows").write_text("new data")
  return ("--gin.DATA_DIR=rows", *flags)


def accepted():
  return json.loads(pathlib.Path("out/inputs.json").read_text())["accepted"]


def test_a_finished_run_whose_data_has_changed_is_not_done(jobs, capsys):
  flags = changed_data()
  capsys.readouterr()
  assert start(*flags) == 2
  printed = capsys.readouterr()
  assert "rows: sha256" in printed.err and "already done" not in printed.out
  assert not accepted()
  assert start(*flags, "--accept_changes") == 0
  assert "already done" in capsys.readouterr().out
  assert len(accepted()) == 1 and len(jobs.CALLS) == 1
  assert start(*flags) == 0


def test_an_unfinished_run_whose_data_has_changed_does_not_resume(jobs, capsys):
  flags = changed_data("--gin.train.fail=value")
  assert start(*flags) == 2
  assert "rows: sha256" in capsys.readouterr().err and len(jobs.CALLS) == 1
  assert start(*flags, "--accept_changes") == 2
  assert "the data is empty" in capsys.readouterr().err
  assert len(jobs.CALLS) == 2 and len(accepted()) == 1


@pytest.mark.parametrize("fail", ["value", "stop", "key", ""])
def test_the_folder_is_free_when_the_job_has_ended(jobs, fail):
  with contextlib.suppress(KeyboardInterrupt):
    start("--gin.DATA_DIR=d", f"--gin.train.fail={fail}")
  assert len(jobs.CALLS) == 1
  assert not list(pathlib.Path("out").glob(".*"))


def test_a_job_does_not_read_the_folder_that_it_writes(jobs, capsys):
  assert start("--gin.DATA_DIR=out/data") == 2
  assert "data_dir: out/data is read and is inside" in capsys.readouterr().err
  assert not jobs.CALLS and not pathlib.Path("out").exists()


def test_bad_rows_of_input_files_are_counted_and_nan_is_null(jobs, tmp_path):
  data = tmp_path / "rows.jsonl"
  data.write_text('{"a": 1}\n{"a": NaN}\n["\\ud800"]\n{"a": 2}\n')
  assert start(f"--gin.DATA_DIR={data}", "--gin.train.fail=rows") == 0
  result = json.loads((tmp_path / "out" / "result.json").read_text())
  assert result["rows"] == 2 and result["loss"] == {"value": None}
  assert result["quarantined_input"] == 2
  assert sum(result["quarantined_input_reasons"].values()) == 2
  lines = (tmp_path / "out" / "quarantine_input.jsonl").read_text().splitlines()
  assert [json.loads(x)["where"] for x in lines] == [f"{data}:2", f"{data}:3"]
