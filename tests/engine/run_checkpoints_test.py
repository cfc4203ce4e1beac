# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of runs: the newest whole one is taken, damage is noticed."""

from __future__ import annotations

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import run_checkpoints

pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def collect_unawaited():
  """After a failed read, Orbax leaves coroutines that nobody awaits."""
  yield
  gc.collect()


STATE = {
  "a": {"w": jnp.arange(600.0).reshape(20, 30)},
  "b": jnp.ones(4),
  "step": jnp.zeros((), jnp.int32),
}


def state(step):
  return jax.tree.map(lambda x: x + step, STATE)


def check_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A directory with the checkpoints of steps 1, 2 and 3."""
  root = tmp_path_factory.mktemp("saved")
  run = run_checkpoints.RunCheckpoints(root / "checkpoints", keep=3)
  for step in (1, 2, 3):
    run.save(step, state(step))
  return root / "checkpoints"


@pytest.fixture
def folder(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "checkpoints")
  return tmp_path / "checkpoints"


def data_file(step):
  """The file with the values of "w"."""
  files = (f for f in step.glob("default/ocdbt.*/d/*") if f.is_file())
  return max(files, key=lambda file: file.stat().st_size)


def flip(file, at=200):
  data = bytearray(file.read_bytes())
  data[at] ^= 8
  file.write_bytes(data)


def restore(folder):
  run = run_checkpoints.RunCheckpoints(folder, keep=3)
  return run.restore(STATE), run.steps()


def test_a_run_restores_its_newest_checkpoint(tmp_path):
  run = run_checkpoints.RunCheckpoints(tmp_path, keep=2)
  for step in (1, 2, 3):
    run.save(step, state(step))
  run.save(3, STATE)  # Already there: left as it is.
  assert run.steps() == [2, 3]
  check_equal(run.restore(STATE), state(3))
  check_equal(run.restore(STATE, 2), state(2))


def test_without_a_checkpoint_the_state_is_returned(tmp_path):
  run = run_checkpoints.RunCheckpoints(tmp_path)
  assert run.restore(STATE) is STATE


@pytest.mark.parametrize("where", ["save", "delete"])
def test_what_a_kill_leaves_is_removed_and_no_checkpoint(
  folder, monkeypatch, where
):
  def kill(*args, **options):
    raise KeyboardInterrupt

  run = run_checkpoints.RunCheckpoints(folder, keep=3)
  with monkeypatch.context() as patch:
    if where == "save":
      patch.setattr(run_checkpoints.jsonl, "write_text", kill)
    else:
      patch.setattr(run_checkpoints.shutil, "rmtree", kill)
    with pytest.raises(KeyboardInterrupt):
      run.save(4, state(4))
  assert len(list(folder.iterdir())) == 4
  found, steps = restore(folder)
  newest = 4 if where == "delete" else 3
  check_equal(found, state(newest))
  assert steps == [newest - 2, newest - 1, newest]
  assert len(list(folder.iterdir())) == 3


def test_damaged_checkpoints_are_passed_over_and_kept(folder, caplog):
  flip(data_file(folder / "3"))
  shutil.rmtree(folder / "2" / "default")
  found, steps = restore(folder)
  check_equal(found, state(1))
  assert steps == [1]
  damaged = folder.with_name("damaged_checkpoints")
  assert sorted(path.name for path in damaged.iterdir()) == ["2", "3"]
  assert data_file(damaged / "3").exists()
  lines = [record.getMessage() for record in caplog.records]
  assert any("step 3 is damaged" in x and "from step 1" in x for x in lines)
  assert any("tensor a/w differs from its hash, with 0" in x for x in lines)
  assert any("step 2 is damaged (FileNotFoundError" in x for x in lines)


def test_a_step_that_was_moved_is_saved_again(folder):
  for _ in range(2):  # Damaged twice, so that its place is taken.
    flip(data_file(folder / "3"))
    run = run_checkpoints.RunCheckpoints(folder, keep=3)
    check_equal(run.restore(STATE), state(2))
    run.save(3, state(3))
    check_equal(restore(folder)[0], state(3))
  damaged = folder.with_name("damaged_checkpoints")
  assert sorted(path.name for path in damaged.iterdir()) == ["3", "3_"]


def test_without_a_whole_one_they_stay_and_are_named(folder):
  for step in ("1", "2", "3"):
    flip(data_file(folder / step))
  for _ in range(2):  # The same again: it does not start from nothing.
    with pytest.raises(
      checkpoint.DamagedError,
      match=r"no checkpoint in .*step 3: .*step 2: .*step 1: .*--output_dir",
    ):
      restore(folder)
  assert {path.name for path in folder.iterdir()} == {"1", "2", "3"}


def test_an_empty_step_folder_is_passed_over(folder):
  (folder / "20").mkdir()
  found, steps = restore(folder)
  check_equal(found, state(3))
  assert steps == [1, 2, 3]


def test_another_model_is_no_damage(folder):
  other = {**STATE, "b": jnp.ones(5)}
  run = run_checkpoints.RunCheckpoints(folder)
  with pytest.raises(ValueError, match=r"parameter b is \(\(4,\).*\(\(5,\)"):
    run.restore(other)
  assert {path.name for path in folder.iterdir()} == {"1", "2", "3"}


def test_hashes_that_were_changed_are_damage_too(folder):
  path = folder / "3" / "hashes.json"
  row = json.loads(path.read_text())
  row["hashes"]["c"] = row["hashes"].pop("b")
  path.write_text(json.dumps(row))
  check_equal(restore(folder)[0], state(2))


def test_every_damage_to_every_file_is_noticed_or_harmless(saved, tmp_path):
  files = [f for f in sorted((saved / "3").rglob("*")) if f.is_file()]
  outcomes = set()
  for file in files:
    size = file.stat().st_size
    data = file.read_bytes()
    kinds = {"missing": None, "empty": b"", "half": data[: size // 2]}
    for at in {size // 3, 2 * size // 3} if size else ():
      spoiled = bytearray(data)
      spoiled[at] ^= 1 << at % 8
      kinds[f"flip {at}"] = bytes(spoiled)
    for kind, content in kinds.items():
      target = tmp_path / "checkpoints" / "3"
      shutil.copytree(saved / "3", target)
      name = file.relative_to(saved / "3")
      if content is None:
        (target / name).unlink()
      else:
        (target / name).write_bytes(content)
      try:
        found, _ = restore(target.parent)
        check_equal(found, state(3))
        outcomes.add("harmless")
      except checkpoint.DamagedError as error:
        assert "step 3: " in str(error), (name, kind)
        outcomes.add("noticed")
      shutil.rmtree(target)
  assert outcomes == {"harmless", "noticed"}
