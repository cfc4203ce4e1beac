# SPDX-License-Identifier: Apache-2.0
"""Several processes that run one job: start, agreement, exchange, loss.

Each process runs the same job on its own devices, and arrays are global.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import itertools
import json
import os
import socket
import sys
import time
import types
from typing import Any, Mapping, TypeVar

from absl import logging
import jax
from jaxtyping import PyTree
import numpy as np

from rlaif_jax.engine import preemption

T = TypeVar("T")

# JAX ends a process whose peers are silent for this long.
HEARTBEAT_SECONDS = 30
# After an error, process 0 lets the others end first.
GRACE_SECONDS = 2.0

# Key under which the step to stop after is stored, and its lead in steps.
_STOP = "rlaif_jax/stop"
_LEAD = 3

# Counts the calls of `all_values`, as part of their keys.
_EXCHANGES = itertools.count()

# The port of `meet`, relative to JAX's, which may be the last one (65535).
_PORT_OFFSET = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """The processes of a job, and which of them this is.

  Fields:
    address: host:port of process 0.
    count: number of processes.
    index: index of this process.
  """

  address: str
  count: int
  index: int

  def __post_init__(self):
    host, _, port = self.address.rpartition(":")
    if not host or not port.isdecimal():
      raise ValueError(
        f"the coordinator's address is {self.address!r}; it should be "
        "host:port, such as 10.0.0.2:8476"
      )
    if self.count < 1 or not 0 <= self.index < self.count:
      raise ValueError(
        f"the process index is {self.index} of {self.count} processes; it "
        "should be from 0 to the number less one"
      )


def detect(
  environment: Mapping[str, str], timeout_seconds: float = 300.0
) -> Group | None:
  """Returns the group of this process, or None if it runs alone.

  JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID come
  first. Without them JAX detects Slurm steps and Cloud TPU slices (GKE and TPU
  VMs).

  Args:
    environment: environment variables.
    timeout_seconds: time for the coordinator's host name to be resolved.

  Raises:
    ValueError: if some of the three variables are missing or malformed.
  """
  names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
  given = [environment.get(name, "") for name in names]
  if any(given):
    missing = [n for n, value in zip(names, given, strict=True) if not value]
    if missing:
      raise ValueError(
        f"{', '.join(missing)} is not set; set all of {', '.join(names)}, or "
        "none of them"
      )
    address, count, index = given
    if not count.isdecimal() or not index.isdecimal():
      raise ValueError(
        f"{names[1]} is {count!r} and {names[2]} is {index!r}; both should be "
        "numbers"
      )
    return Group(address=address, count=int(count), index=int(index))
  # What jax.distributed.initialize uses, without its choice of devices: a
  # process has all devices of its host, under Slurm too.
  from jax._src import clusters as c

  for cluster in (c.SlurmCluster, c.GkeTpuCluster, c.GceTpuCluster):
    if not _is_present(cluster):
      continue
    address, count, index, _ = cluster.auto_detect_unset_distributed_params(
      None, None, None, None, cluster.name, int(timeout_seconds)
    )
    if count == 1:
      return None
    return Group(address=address, count=count, index=index)
  return None


def _is_present(cluster: Any) -> bool:
  if cluster.name == "slurm" and "SLURM_STEP_NODELIST" not in os.environ:
    return False  # An allocation without a step; JAX 0.6 takes it for one.
  try:
    return cluster.is_env_present()
  except OSError:  # A TPU without Google Cloud's metadata server.
    return False


def start(timeout_seconds: float = 300.0) -> None:
  """Initializes jax.distributed if this process is one of several.

  JAX aborts without a reason if a process is missing, so the processes connect
  to each other first.

  Raises:
    TimeoutError: if processes are missing; names them.
    ValueError: see `detect`.
  """
  group = detect(os.environ, timeout_seconds)
  if group is None or group.count == 1:
    return
  meet(group, timeout_seconds)
  # For CPUs; other devices have their own collectives.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
    group.address,
    group.count,
    group.index,
    initialization_timeout=int(timeout_seconds),
    cluster_detection_method="deactivate",
    heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
  )
  if is_writer():
    logging.info("%d processes, %d devices", group.count, jax.device_count())


def meet(group: Group, timeout_seconds: float) -> None:
  """Waits until all processes have connected to process 0.

  Raises:
    TimeoutError: if processes are missing; names them.
  """
  host, _, port = group.address.rpartition(":")
  place = (host.strip("[]"), int(port) + _PORT_OFFSET)
  until = time.monotonic() + timeout_seconds
  if group.index == 0:
    _gather(group, place[1], until, timeout_seconds)
  else:
    _report(group, place, until, timeout_seconds)


def _gather(group: Group, port: int, until: float, seconds: float) -> None:
  """Process 0: collects the indices of the others, then releases them."""
  connected: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(socket.create_server(("", port)))
    while len(connected) < group.count - 1:
      server.settimeout(max(0.01, until - time.monotonic()))
      try:
        peer, _ = server.accept()
        stack.enter_context(peer)
        peer.settimeout(5.0)
        hello = json.loads(peer.makefile("rb").readline(4096))
      except TimeoutError:
        if time.monotonic() < until:
          continue  # A connection without a message.
        missing = sorted(set(range(1, group.count)) - set(connected))
        raise TimeoutError(
          f"process(es) {missing} of {group.count} did not connect within "
          f"{seconds:.0f} s; see their logs, or start the job again on all "
          "hosts"
        ) from None
      except (OSError, ValueError):
        continue  # A port scan, or a process that was killed.
      if hello.get("count") == group.count and 0 < hello["index"] < group.count:
        connected[hello["index"]] = peer
    for peer in connected.values():
      peer.sendall(b"go\n")


def _report(group: Group, place, until: float, seconds: float) -> None:
  """Any other process: sends its index and waits for the release."""
  hello = json.dumps({"index": group.index, "count": group.count}) + "\n"
  while time.monotonic() < until:
    with contextlib.suppress(OSError):
      with socket.create_connection(place, timeout=5.0) as peer:
        peer.sendall(hello.encode())
        peer.settimeout(max(0.01, until - time.monotonic()))
        if peer.makefile("rb").readline() == b"go\n":
          return
    time.sleep(0.2)
  raise TimeoutError(
    f"process {group.index}: process 0 at {group.address} (port "
    f"{place[1]}) did not answer within {seconds:.0f} s, or others are "
    "missing; see the log of process 0"
  )


def is_writer() -> bool:
  """Whether this process (0) writes results, logs and metrics."""
  return jax.process_index() == 0


def exit_on_failure(
  _kind: type[BaseException] | None,
  error: BaseException | None,
  _traceback: types.TracebackType | None,
) -> None:
  """Ends a process that fails while others run, without waiting for them.

  JAX's own exit waits for the others, and they for this process. If a
  collective failed, another process is lost, which a message says. It is pushed
  to an ExitStack.
  """
  if error is None or isinstance(error, preemption.Preempted):
    return
  if jax.process_count() == 1:
    return
  if not _is_collective_failure(error):
    atexit.register(_leave)  # What is registered last runs first.
    return
  reason = " ".join(str(error).split())[:300]
  sys.stderr.write(
    f"error: process {jax.process_index()} of {jax.process_count()} has lost "
    f"another one ({reason}). See the logs of the others; the same command "
    "on all hosts resumes from the last checkpoint\n"
  )
  sys.stderr.flush()
  os._exit(1)


def _leave() -> None:
  """Ends the process with the exit code of an error."""
  sys.stdout.flush()
  sys.stderr.flush()
  if is_writer():  # The others may have found the same; it would end them.
    time.sleep(GRACE_SECONDS)
  os._exit(2)


def _is_collective_failure(error: BaseException | None) -> bool:
  """Whether an error or one of its causes is a failed collective."""
  while error is not None:
    if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def wait_for_all(name: str) -> None:
  """Blocks until all processes have called it; no-op for one process."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def any_of_all(flag: bool) -> bool:
  """Returns whether the flag is true in any process."""
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def all_values(value: T) -> list[T]:
  """Returns a JSON value of each process, by process index.

  Every process calls it, as often as the others.
  """
  if jax.process_count() == 1:
    return [value]
  from jax._src import distributed  # The store behind jax.distributed.

  client = distributed.global_state.client
  place = f"rlaif_jax/values/{next(_EXCHANGES)}"
  client.key_value_set(f"{place}/{jax.process_index()}", json.dumps(value))
  return [
    json.loads(client.blocking_key_value_get(f"{place}/{index}", 600_000))
    for index in range(jax.process_count())
  ]


def sum_of_all(counts: Mapping[str, int]) -> dict[str, int]:
  """Returns the sum of each count over the processes.

  Args:
    counts: the same names in each process, or none.
  """
  total: dict[str, int] = {}
  for found in all_values(dict(counts)):
    for name, number in found.items():
      total[name] = total.get(name, 0) + number
  return total


def is_time_to_stop(step: int, asked: bool) -> bool:
  """Returns whether all processes stop after this step.

  A process that was asked to stop (SIGTERM) stores a step that no process has
  passed: processes exchange gradients in every step, so their steps are close.
  Costs one request to process 0 and does not wait for devices.
  """
  if jax.process_count() == 1:
    return asked
  from jax._src import distributed  # The store behind jax.distributed.

  client = distributed.global_state.client
  if asked:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # Stored before.
      client.key_value_set(_STOP, str(step + _LEAD))
  try:
    return step >= int(client.key_value_try_get(_STOP))
  except jax.errors.JaxRuntimeError:  # No process was asked.
    return False


def to_host(tree: PyTree) -> PyTree[np.ndarray]:
  """Returns global arrays as complete NumPy arrays in every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  from jax.experimental import multihost_utils

  return jax.tree.map(
    lambda x: np.asarray(multihost_utils.process_allgather(x, tiled=True)), tree
  )
