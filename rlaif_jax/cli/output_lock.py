# SPDX-License-Identifier: Apache-2.0
"""One process per output directory, also on network file systems.

The lock is a file `.lock.N` that is created with O_EXCL; it names its owner,
whose heartbeat is its modification time. A process that finds stale locks
creates the next number, of which one process succeeds, then looks again: if it
sees a lock that it has not judged stale, it withdraws. Two processes that
create different numbers cannot both miss the other. A lock is deleted by its
owner, or by the owner that has replaced it.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import pathlib
import platform
import sys
import threading
import time
from typing import Iterator
import uuid

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0  # without heartbeat, of an owner on another host
_POLL_SECONDS = 0.5

Owner = dict[str, str | int]


def _read_or_empty(path: str) -> str:
  try:
    return pathlib.Path(path).read_text("utf-8")
  except OSError:
    return ""


def this_process() -> Owner:
  """Returns what identifies this process.

  `system` is the boot of the kernel and the namespace of process ids, in which
  a process id has a meaning.
  """
  namespace = "/proc/self/ns/pid"
  system = _read_or_empty("/proc/sys/kernel/random/boot_id").strip()
  if os.path.lexists(namespace):
    system += f" {os.readlink(namespace)}"
  return {
    "host": platform.node(),
    "system": system,
    "pid": os.getpid(),
    "start": start_of(os.getpid()),
    "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    "token": uuid.uuid4().hex,
  }


def start_of(pid: int) -> str:
  """Returns the start of a process in clock ticks since the boot.

  Returns "" for a process that has ended (or is a zombie), and "?" for one that
  runs on a system without /proc.
  """
  if os.path.isdir("/proc/self"):
    # The name, in brackets, may have blanks and brackets.
    fields = _read_or_empty(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] not in "ZX" else ""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return ""
  except PermissionError:  # Of another user.
    pass
  return "?"


def _locks(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns the locks, the lowest number first."""
  found = [p for p in directory.glob(".lock.*") if p.suffix[1:].isdecimal()]
  return sorted(found, key=_number)


def _number(path: pathlib.Path) -> int:
  return int(path.suffix[1:])


def _look(path: pathlib.Path) -> tuple[Owner, float]:
  """Returns the owner in a lock, {} if none is written, and its last heartbeat.

  Opening the file makes a network file system ask the server for its time.

  Raises:
    FileNotFoundError: if the lock is gone.
  """
  with open(path, "rb") as f:
    beat = os.fstat(f.fileno()).st_mtime
    data = f.read()
  try:
    found = json.loads(data)
  except ValueError:
    return {}, beat
  is_owner = isinstance(found, dict) and isinstance(found.get("pid"), int)
  return found if is_owner else {}, beat


def _owner(path: pathlib.Path) -> Owner | None:
  """Returns the owner in a lock; None if the lock is gone."""
  try:
    return _look(path)[0]
  except FileNotFoundError:
    return None


def _clock(directory: pathlib.Path) -> float:
  """Returns the time of the file system, which may differ from the host's."""
  path = directory / f".lock.{uuid.uuid4().hex}.clock"
  path.touch()
  try:
    return path.stat().st_mtime
  finally:
    path.unlink(missing_ok=True)


def _state(path: pathlib.Path, me: Owner, first: tuple[Owner, float]) -> str:
  """Judges a lock.

  Args:
    path: the lock.
    me: this process.
    first: owner and heartbeat when the lock was first seen.

  Returns:
    "gone" (or another one), "stale", "used", or "unknown": the owner is on
    another host, has not beaten since, and may be alive; ask again.
  """
  try:
    owner, beat = _look(path)
  except FileNotFoundError:
    return "gone"
  if owner != first[0]:
    return "gone"
  if owner and all(owner.get(k) == me[k] for k in ("host", "system")):
    start = start_of(int(owner["pid"]))
    return "used" if start and start == owner.get("start") else "stale"
  if beat != first[1]:
    return "used"
  is_stale = _clock(path.parent) - beat > STALE_SECONDS
  return "stale" if is_stale else "unknown"


def _in_use(directory: pathlib.Path, owner: Owner) -> ValueError:
  who = "process {pid} on {host} since {time}".format_map(
    {"pid": "?", "host": "?", "time": "?", **owner}
  )
  return ValueError(
    f"{directory} is in use by {who}; wait or stop it, or use another "
    "--output_dir"
  )


def _judge(directory: pathlib.Path, me: Owner) -> dict[pathlib.Path, Owner]:
  """Returns the stale locks; waits for the heartbeat of an owner elsewhere.

  Raises:
    ValueError: if a lock is in use; names its owner.
  """
  seen: dict[pathlib.Path, tuple[Owner, float]] = {}
  while True:
    states = {}
    for path in _locks(directory):
      with contextlib.suppress(FileNotFoundError):
        if path not in seen:
          seen[path] = _look(path)
        states[path] = _state(path, me, seen[path])
      if states.get(path) == "used":
        raise _in_use(directory, seen[path][0])
    if set(states.values()) <= {"stale"}:
      return {path: seen[path][0] for path in states}
    for path, state in states.items():
      if state == "gone":
        del seen[path]
      elif state == "unknown" and seen[path][0]:
        _told(directory, str(seen[path][0].get("host")))
    time.sleep(_POLL_SECONDS)


@functools.cache
def _told(directory: pathlib.Path, host: str) -> None:
  print(
    f"{directory} was in use on {host}; waiting {STALE_SECONDS:.0f} s for a "
    "sign of life from there",
    flush=True,
  )


def _acquire(directory: pathlib.Path, me: Owner) -> pathlib.Path:
  """Creates the lock of this process and returns its path.

  Raises:
    ValueError: if another process has the directory.
  """
  while True:
    stale = _judge(directory, me)
    number = max(map(_number, stale), default=0) + 1
    path = directory / f".lock.{number}"
    try:
      f = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
      continue
    try:
      os.write(f, json.dumps(me).encode())
    except OSError:  # A full disk. Others would wait for a lock without owner.
      path.unlink()
      raise
    finally:
      os.close(f)
    others = {p: _owner(p) for p in _locks(directory) if p != path}
    if all(owner in (None, stale.get(p)) for p, owner in others.items()):
      for old in stale:
        old.unlink(missing_ok=True)
      return path
    path.unlink(missing_ok=True)


def _beat(path: pathlib.Path, me: Owner, stop: threading.Event) -> None:
  """Renews the modification time; ends the process if the lock is lost."""
  while not stop.wait(BEAT_SECONDS):
    with contextlib.suppress(OSError):
      if _owner(path) == me:
        os.utime(path)
        continue
      others = [owner for p in _locks(path.parent) if (owner := _owner(p))]
      if not others:
        continue  # Deleted by hand.
      sys.stderr.write(
        f"error: {_in_use(path.parent, others[-1])}. It has taken over after "
        "this process gave no sign of life\n"
      )
      sys.stderr.flush()
      os._exit(2)


@contextlib.contextmanager
def hold(directory: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a directory, which is created if missing.

  A lock of a process that has ended on this host is taken over at once, and
  that of another host after a minute without heartbeat.

  Raises:
    ValueError: if another process holds it; names host, process id and start.
  """
  directory.mkdir(parents=True, exist_ok=True)
  me = this_process()
  path = _acquire(directory, me)
  stop = threading.Event()
  beat = threading.Thread(target=_beat, args=(path, me, stop), daemon=True)
  beat.start()
  try:
    yield
  finally:
    stop.set()
    beat.join()
    if _owner(path) == me:
      path.unlink(missing_ok=True)
