# SPDX-License-Identifier: Apache-2.0
"""One process per folder, and none is locked out by one that has died."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlaif_jax.cli import output_lock

ROOT = pathlib.Path(__file__).parents[2]

# Waits for the file `go`, takes the lock and tells it; holds until stdin ends.
_HOLD = """
import pathlib, sys, time
from rlaif_jax.cli import output_lock
output_lock.BEAT_SECONDS = 0.05
folder = pathlib.Path(sys.argv[1])
print("ready", flush=True)
while not folder.with_name("go").exists():
  time.sleep(0.001)
try:
  with output_lock.hold(folder):
    print("held", flush=True)
    sys.stdin.read()
except ValueError as error:
  print(error, flush=True)
"""


def starter(folder):
  return subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(folder)],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def started(folder):
  """A process that holds the lock."""
  (folder.parent / "go").touch()
  process = starter(folder)
  assert process.stdout.readline() == "ready\n"
  assert process.stdout.readline() == "held\n"
  return process


def end(process):
  process.stdin.close()
  process.wait()
  process.stdout.close()
  process.stderr.close()


def write_lock(folder, number=1, age=0.0, **changes):
  """The lock of this process, with other values."""
  folder.mkdir(exist_ok=True)
  path = folder / f".lock.{number}"
  path.write_text(json.dumps({**output_lock.this_process(), **changes}))
  os.utime(path, (time.time() - age,) * 2)
  return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(output_lock, "STALE_SECONDS", 2.0)
  monkeypatch.setattr(output_lock, "_POLL_SECONDS", 0.01)


def test_a_lock_is_held_and_released(tmp_path):
  with output_lock.hold(tmp_path / "run"):
    (path,) = (tmp_path / "run").iterdir()
    assert json.loads(path.read_text())["pid"] == os.getpid()
  assert not list((tmp_path / "run").iterdir())
  with pytest.raises(KeyError):
    with output_lock.hold(tmp_path / "run"):
      raise KeyError
  assert not list((tmp_path / "run").iterdir())


def test_a_second_process_is_refused_and_told_by_whom(tmp_path):
  with output_lock.hold(tmp_path):
    owner = json.loads((tmp_path / ".lock.1").read_text())
    with pytest.raises(ValueError) as error:
      with output_lock.hold(tmp_path):
        pass
  assert str(error.value) == (
    f"{tmp_path} is in use by process {os.getpid()} on {owner['host']} since "
    f"{owner['time']}; wait or stop it, or use another --output_dir"
  )


@pytest.mark.parametrize("is_stale", [False, True])
def test_of_eight_starters_one_wins(tmp_path, is_stale):
  folder = tmp_path / "run"
  folder.mkdir()
  if is_stale:
    write_lock(folder, pid=2**22 + 1)
    write_lock(folder, number=4, pid=2**22 + 2)
  starters = [starter(folder) for _ in range(8)]
  for process in starters:
    assert process.stdout.readline() == "ready\n"
  (tmp_path / "go").touch()
  said = [process.stdout.readline() for process in starters]
  (winner,) = [p for p, line in zip(starters, said) if line == "held\n"]
  lost = [line for line in said if line != "held\n"]
  assert all(f"in use by process {winner.pid} on " in line for line in lost)
  assert len(list(folder.glob(".lock.*"))) == 1
  for process in starters:
    end(process)
  assert not list(folder.iterdir())


@pytest.mark.parametrize("is_reaped", [True, False])
def test_a_killed_owner_is_replaced_at_once(tmp_path, is_reaped):
  process = started(tmp_path / "run")
  process.send_signal(signal.SIGKILL)
  if is_reaped:
    process.wait()
  begin = time.monotonic()
  while output_lock.start_of(process.pid):  # The signal takes a moment.
    time.sleep(0.001)
  with output_lock.hold(tmp_path / "run"):
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock.2"]
  assert time.monotonic() - begin < 1.0
  end(process)


def test_a_stopped_owner_is_not_dead(tmp_path):
  process = started(tmp_path / "run")
  process.send_signal(signal.SIGSTOP)
  with pytest.raises(ValueError, match="in use"):
    with output_lock.hold(tmp_path / "run"):
      pass
  process.send_signal(signal.SIGCONT)
  end(process)


def test_another_process_with_the_id_of_the_owner_is_not_the_owner(tmp_path):
  write_lock(tmp_path, start="1")
  with output_lock.hold(tmp_path):
    pass


@pytest.mark.parametrize(
  "elsewhere", [{"host": "other"}, {"system": "another boot"}]
)
def test_an_owner_on_another_host_is_judged_by_its_heartbeat(
  tmp_path, elsewhere, capsys
):
  path = write_lock(tmp_path, age=3.0, pid=1, **elsewhere)
  with output_lock.hold(tmp_path):
    assert not path.exists()
  # It beats, half a second later.
  path = write_lock(tmp_path, age=1.0, pid=1, **elsewhere)
  beat = threading.Timer(0.1, os.utime, [path])
  beat.start()
  with pytest.raises(ValueError, match="in use by process 1 on"):
    with output_lock.hold(tmp_path):
      pass
  beat.join()
  assert path.exists()
  # It never beats again.
  os.utime(path, (time.time() - 1.8,) * 2)
  with output_lock.hold(tmp_path):
    assert not path.exists()
  assert "waiting 2 s for a sign of life" in capsys.readouterr().out


def test_the_clock_is_that_of_the_file_system(tmp_path, monkeypatch):
  path = write_lock(tmp_path, host="other")
  monkeypatch.setattr(output_lock, "_clock", lambda _: time.time() + 3.0)
  with output_lock.hold(tmp_path):
    assert not path.exists()
  assert abs(output_lock._clock(tmp_path) - time.time()) < 100
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_lock_is_stale_after_a_while(tmp_path, text):
  path = tmp_path / ".lock.1"
  path.write_text(text)
  os.utime(path, (time.time() - 1.9,) * 2)
  with output_lock.hold(tmp_path):
    assert not path.exists()


def test_a_late_starter_withdraws(tmp_path, monkeypatch):
  """It has judged a lock stale that others have replaced meanwhile."""
  old = write_lock(tmp_path, number=3, pid=2**22 + 1)
  judged = output_lock._judge(tmp_path, output_lock.this_process())
  assert set(judged) == {old}
  old.unlink()
  answers = [judged]

  def judge(directory, me):
    return answers.pop() if answers else real(directory, me)

  real = output_lock._judge
  monkeypatch.setattr(output_lock, "_judge", judge)
  for number in (1, 3, 4, 5):  # It would create 4.
    answers.append(judged)
    used = write_lock(tmp_path, number=number)
    with pytest.raises(ValueError, match="in use"):
      with output_lock.hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == [used]
    used.unlink()


def test_an_owner_that_was_replaced_stops(tmp_path):
  process = started(tmp_path / "run")
  process.send_signal(signal.SIGSTOP)
  (tmp_path / "run" / ".lock.1").unlink()
  write_lock(tmp_path / "run", number=2)
  process.send_signal(signal.SIGCONT)
  assert process.wait(timeout=20) == 2
  assert "It has taken over" in process.stderr.read()
  assert (tmp_path / "run" / ".lock.2").exists()
  end(process)


def test_the_heartbeat_renews_the_time(tmp_path):
  process = started(tmp_path / "run")
  path = tmp_path / "run" / ".lock.1"
  os.utime(path, (1.0, 1.0))
  until = time.monotonic() + 20
  while path.stat().st_mtime == 1.0 and time.monotonic() < until:
    time.sleep(0.01)
  assert path.stat().st_mtime > 1.0
  end(process)


def test_the_start_of_a_process(monkeypatch):
  mine = output_lock.start_of(os.getpid())
  assert int(mine) > 0 and output_lock.start_of(2**22 + 1) == ""
  monkeypatch.setattr(output_lock.os.path, "isdir", lambda _: False)
  assert output_lock.start_of(os.getpid()) == output_lock.start_of(1) == "?"
  assert output_lock.start_of(2**22 + 1) == ""


def test_a_lock_that_cannot_be_written_is_not_left(tmp_path, monkeypatch):
  """The next process would wait a minute for an owner that it does not name."""

  def fail(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "write", fail)
  with pytest.raises(OSError, match="No space"):
    with output_lock.hold(tmp_path):
      pass
  assert not list(tmp_path.iterdir())
