# SPDX-License-Identifier: Apache-2.0
"""Runs mutated inputs under limits of time and memory, and counts outcomes.

    python -m tests.fuzz.runner [SECONDS [FOLDER/FILE ...]]

prints a table. Cases run in a worker process, which is replaced when a case
kills it or runs over its time. A case is (number of the format, seed); equal
cases are equal inputs.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from typing import Iterator, NamedTuple

SECONDS = 60.0  # of one case
MEMORY = 2 << 30  # bytes above those before the case
START = 300.0  # seconds for a worker to start
GOOD = ("ok", "named")


class Outcome(NamedTuple):
  """The result of a case.

  `kind` is "ok", "named" (an error that names the file), "unnamed", "crash"
  (another exception than ValueError and OSError), "hang", "memory" or "died".
  """

  kind: str
  note: str = ""  # the mutation
  detail: str = ""
  seconds: float = 0.0
  memory: int = 0


def _peak() -> int:
  """Returns the peak of resident memory since `_reset_peak`, in bytes."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith("VmHWM:"):
      return int(line.split()[1]) << 10
  raise AssertionError("no VmHWM in /proc/self/status")


def _reset_peak() -> int:
  """Starts a new measurement of the peak; returns the memory in use."""
  pathlib.Path("/proc/self/clear_refs").write_text("5")
  return _peak()


@contextlib.contextmanager
def _limited() -> Iterator[None]:
  """Raises TimeoutError after SECONDS, and refuses memory over MEMORY."""

  def stop(*_):
    raise TimeoutError("over time")

  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  limit = pages * resource.getpagesize() + 2 * MEMORY
  before = resource.getrlimit(resource.RLIMIT_AS)
  handler = signal.signal(signal.SIGALRM, stop)
  signal.setitimer(signal.ITIMER_REAL, SECONDS)
  resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, before)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)


def _read(read, folder: pathlib.Path) -> tuple[str, str]:
  try:
    with _limited():
      read(folder)
  except TimeoutError:
    return "hang", traceback.format_exc(limit=-6)
  except (ValueError, OSError) as error:
    message = str(error)
    try:
      message.encode("utf-8")
    except UnicodeEncodeError:
      return "crash", f"cannot be printed: {message!r}"
    if str(folder) in message:
      return "named", message
    return "unnamed", traceback.format_exc(limit=-5)
  except Exception:
    return "crash", traceback.format_exc(limit=-5)
  return "ok", ""


def measure(read, folder: pathlib.Path, note: str = "") -> Outcome:
  """Returns the outcome of reading a folder."""
  used, begin = _reset_peak(), time.monotonic()
  kind, detail = _read(read, folder)
  seconds, memory = time.monotonic() - begin, _peak() - used
  # What the limit refused would have been taken elsewhere.
  if memory > MEMORY or "needs more memory" in detail:
    kind = "memory" if kind in (*GOOD, "unnamed") else kind
  return Outcome(kind, note, detail, seconds, memory)


def names() -> list[tuple[int, str]]:
  """Returns the number and the name of each format."""
  from tests.fuzz import formats

  rows = enumerate(formats.FORMATS)
  return [(number, f"{row.folder}/{row.file}") for number, row in rows]


def run_case(corpus: pathlib.Path, number: int, seed: int | None) -> Outcome:
  """Damages a file of a copy of the corpus, and reads it; None: no damage."""
  from tests.fuzz import formats

  chosen = formats.FORMATS[number]
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place) / "input"
    shutil.copytree(corpus / chosen.folder, folder)
    note = ""
    if seed is not None:
      generator = random.Random(f"{chosen.folder}/{chosen.file}/{seed}")
      victim = folder / chosen.file
      data, note = chosen.mutate(victim.read_bytes(), generator)
      victim.write_bytes(data)
    return measure(chosen.read, folder, note)


def _work(pipe, corpus: pathlib.Path) -> None:
  from tests import conftest  # noqa: F401  (the environment of the tests)
  from tests.fuzz import corpus as corpus_lib

  with open(os.devnull, "w") as null:  # Progress lines, library warnings.
    os.dup2(null.fileno(), 2)
  if not corpus.exists():
    corpus_lib.write(corpus)
  pipe.send("ready")
  while True:
    pipe.send(run_case(corpus, *pipe.recv()))


class Runner:
  """Runs cases in a worker that it replaces when needed."""

  def __init__(self, corpus: pathlib.Path):
    self._corpus = corpus
    self._process = None
    self._context = multiprocessing.get_context("spawn")

  def _start(self) -> None:
    self._pipe, theirs = self._context.Pipe()
    self._process = self._context.Process(
      target=_work, args=(theirs, self._corpus), daemon=True
    )
    self._process.start()
    theirs.close()
    assert self._pipe.poll(START) and self._pipe.recv() == "ready"

  def close(self) -> None:
    """Stops the worker."""
    if self._process is not None:
      self._process.kill()
      self._process.join()
      self._process = None

  def run(self, number: int, seed: int | None) -> Outcome:
    """Returns the outcome of a case."""
    if self._process is None:
      self._start()
    self._pipe.send((number, seed))
    kind = "died"
    try:
      if self._pipe.poll(SECONDS + 10):
        return self._pipe.recv()
      kind = "hang"  # in native code, where no signal is handled
    except EOFError:
      self._process.join()
    code = self._process.exitcode
    self.close()
    return Outcome(kind, detail=f"the worker ended with {code}")


def table(found: dict[str, list[Outcome]]) -> str:
  """Returns a row per format: counts of outcomes, most seconds and memory."""
  kinds = ("ok", "named", "unnamed", "crash", "hang", "memory", "died")
  heads = "".join(f"{kind:>9}" for kind in kinds)
  lines = [f"{'format':46}{heads}{'s':>7}{'MiB':>7}"]
  total = collections.Counter(o.kind for rows in found.values() for o in rows)
  for name, rows in [*found.items(), ("total", sum(found.values(), []))]:
    counts = collections.Counter(o.kind for o in rows)
    counts = total if name == "total" else counts
    cells = "".join(f"{counts[kind]:9}" for kind in kinds)
    seconds = max((o.seconds for o in rows), default=0.0)
    memory = max((o.memory for o in rows), default=0) >> 20
    lines.append(f"{name[-45:]:46}{cells}{seconds:7.1f}{memory:7}")
  return "\n".join(lines)


def main(arguments: list[str]) -> int:
  """Runs cases for a time; prints failures and the table."""
  seconds = float(arguments[0]) if arguments else 60.0
  chosen = [
    (number, name)
    for number, name in names()
    if not arguments[1:] or any(part in name for part in arguments[1:])
  ]
  first = int(os.environ.get("RLAIF_FUZZ_SEED", "0"))
  found: dict[str, list[Outcome]] = {name: [] for _, name in chosen}
  with tempfile.TemporaryDirectory() as place:
    runner = Runner(pathlib.Path(place) / "corpus")
    end, seed = time.monotonic() + seconds, first
    while time.monotonic() < end:
      for number, name in chosen:
        outcome = runner.run(number, seed)
        found[name].append(outcome)
        if outcome.kind not in GOOD:
          print(
            f"--- {outcome.kind} {name} seed {seed}: {outcome.note}\n"
            f"{outcome.detail[-1500:]}",
            flush=True,
          )
      seed += 1
    runner.close()
  print(table(found))
  bad = sum(o.kind not in GOOD for o in sum(found.values(), []))
  return 1 if bad else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
