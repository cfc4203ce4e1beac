# SPDX-License-Identifier: Apache-2.0
"""Several processes as one program: start, output, agreement and stop.

Each process runs the same job on its own devices; arrays are global. The
processes wait for each other before JAX is initialized, because JAX aborts
without naming the processes that are missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import socket
import sys
import time
from typing import Any, Iterator, Mapping, Sequence
import urllib.request

from absl import logging
import jax
import numpy as np

# JAX ends a process when a peer sends no heartbeat for this long.
HEARTBEAT_SECONDS = 30

# Key of the step at which all processes stop, and its lead in steps.
_STOP = "rlaif_jax/stop"
_LEAD = 3

# Numbers the calls of `sum_of_all`, which are in the same order everywhere.
_SUMS = itertools.count()

# Offset of the port for the start from JAX's own port.
_PORT_OFFSET = 1

# JAX's own port of the coordinator of a TPU slice.
_TPU_PORT = 8476

# A machine with a TPU has one of these.
_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """This process among the processes of a job.

  Attributes:
    address: host:port of process 0.
    count: number of processes.
    index: number of this process, from 0.
  """

  address: str
  count: int
  index: int

  def __post_init__(self):
    host, _, port = self.address.rpartition(":")
    if not host or not port.isdecimal():
      raise ValueError(
        f"the coordinator's address is {self.address!r}; use host:port, such "
        "as 10.0.0.2:8476"
      )
    if self.count < 1 or not 0 <= self.index < self.count:
      raise ValueError(
        f"the process index is {self.index} of {self.count} processes; it "
        "must be >= 0 and less than their number"
      )


def group_of(environment: Mapping[str, str]) -> Group | None:
  """Returns the group that the environment names, or None.

  Reads JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and
  JAX_PROCESS_ID; or TPU_WORKER_HOSTNAMES and TPU_WORKER_ID, which GKE sets on
  the hosts of a TPU slice; or the variables of Slurm, for `srun` with several
  tasks. See `group_of_tpu_vm` for TPU VMs.

  Raises:
    ValueError: if a variable is missing or not a number.
  """
  names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
  given = [environment.get(name, "") for name in names]
  if all(given):
    return _group(names, *given)
  if any(given):
    missing = [n for n, value in zip(names, given, strict=True) if not value]
    raise ValueError(
      f"{missing} is not set; set all of {', '.join(names)}, or none of them"
    )
  hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
  if len(hosts) > 1:
    gke = ("TPU_WORKER_HOSTNAMES", "its length", "TPU_WORKER_ID")
    index = environment.get("TPU_WORKER_ID", "")
    return _group(gke, f"{hosts[0]}:{_TPU_PORT}", str(len(hosts)), index)
  if int(environment.get("SLURM_NTASKS", "1") or 1) < 2:
    return None
  if "SLURM_STEP_NODELIST" not in environment:
    return None  # An allocation without a step of several tasks.
  host = _first_host(environment["SLURM_STEP_NODELIST"])
  port = 20000 + int(environment.get("SLURM_JOB_ID", "0")) % 20000
  slurm = ("the node list", "SLURM_NTASKS", "SLURM_PROCID")
  return _group(
    slurm,
    f"{host}:{port}",
    environment["SLURM_NTASKS"],
    environment.get("SLURM_PROCID", ""),
  )


def group_of_tpu_vm(
  environment: Mapping[str, str], devices: Sequence[str] = _TPU_DEVICES
) -> Group | None:
  """Returns the hosts of this TPU VM's slice, or None.

  Queries Google Cloud's metadata server on a machine with a TPU.
  TPU_SKIP_MDS_QUERY disables the query; GCE_METADATA_HOST sets the server.
  """
  has_tpu = any(os.path.exists(device) for device in devices)
  if not has_tpu or environment.get("TPU_SKIP_MDS_QUERY"):
    return None
  server = environment.get("GCE_METADATA_HOST", "metadata.google.internal")

  def attribute(name: str) -> str:
    request = urllib.request.Request(
      f"http://{server}/computeMetadata/v1/instance/attributes/{name}",
      headers={"Metadata-Flavor": "Google"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
      return answer.read().decode()

  try:
    index = attribute("agent-worker-number")
    endpoints = attribute("worker-network-endpoints").split(",")
  except OSError:  # Not a TPU VM, or not a part of a slice.
    return None
  # Host names, or triples that end with the address.
  first = endpoints[0].rpartition(":")[2]
  names = ("worker-network-endpoints", "its length", "agent-worker-number")
  return _group(names, f"{first}:{_TPU_PORT}", str(len(endpoints)), index)


def _group(names, address: str, count: str, index: str) -> Group:
  if not count.isdecimal() or not index.isdecimal():
    raise ValueError(
      f"{names[1]} is {count!r} and {names[2]} is {index!r}; both must be "
      "numbers"
    )
  return Group(address=address, count=int(count), index=int(index))


def _first_host(nodes: str) -> str:
  """Returns the first name of a Slurm list such as node[003-007,9],other."""
  name, bracket, rest = nodes.partition("[")
  if not bracket or "," in name:
    return nodes.split(",")[0]
  first = rest.split("]")[0].split(",")[0].split("-")[0]
  return name + first


def start(timeout_seconds: float = 300.0) -> None:
  """Initializes JAX with the other processes, if there are any.

  Raises:
    TimeoutError: if processes are missing; names them.
    ValueError: see `group_of`.
  """
  group = group_of(os.environ) or group_of_tpu_vm(os.environ)
  if group is None or group.count == 1:
    return
  wait_for_start(group, timeout_seconds)
  # For CPUs; other devices have collectives of their own.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
    group.address,
    group.count,
    group.index,
    initialization_timeout=int(timeout_seconds),
    heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
  )
  if is_writer():
    logging.info("%d processes, %d devices", group.count, jax.device_count())


def wait_for_start(group: Group, timeout_seconds: float) -> None:
  """Waits until all processes have started.

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
  """Collects the indices of the other processes, then releases them."""
  arrived: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(socket.create_server(("", port)))
    while len(arrived) < group.count - 1:
      server.settimeout(max(0.01, until - time.monotonic()))
      try:
        peer, _ = server.accept()
        stack.enter_context(peer)
        peer.settimeout(5.0)
        hello = json.loads(peer.makefile("rb").readline(4096))
      except TimeoutError:
        if time.monotonic() < until:
          continue  # A connection without a message.
        missing = sorted(set(range(1, group.count)) - set(arrived))
        raise TimeoutError(
          f"process(es) {missing} of {group.count} did not start within "
          f"{seconds:.0f} s; see their logs, or start the job again on all "
          "hosts"
        ) from None
      except (OSError, ValueError):
        continue  # A port scan, or a process that was killed.
      if hello.get("count") == group.count and 0 < hello["index"] < group.count:
        arrived[hello["index"]] = peer
    for peer in arrived.values():
      peer.sendall(b"go\n")


def _report(group: Group, place, until: float, seconds: float) -> None:
  """Sends this process's index to process 0, and waits for its answer."""
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
  """Returns whether this process writes results, logs and metrics."""
  return jax.process_index() == 0


@contextlib.contextmanager
def exit_on_lost_peer() -> Iterator[None]:
  """Ends this process with a message when another one has ended.

  Ends at once, because JAX would wait for the missing process at exit.
  """
  try:
    yield
  except (RuntimeError, ValueError, OSError) as error:
    if jax.process_count() == 1 or not _is_network_error(error):
      raise
    message = " ".join(str(error).split())[:300]
    sys.stderr.write(
      f"error: process {jax.process_index()} of {jax.process_count()} has lost "
      f"another one ({message}). See the logs of the other processes; the same "
      "command, started on all hosts, resumes from the last checkpoint\n"
    )
    sys.stderr.flush()
    os._exit(1)


def _is_network_error(error: BaseException | None) -> bool:
  """Returns whether an error, or one of its causes, is a failed collective."""
  while error is not None:
    if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def wait_for_all(name: str) -> None:
  """Waits until all processes have called it; `name` labels the barrier."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def any_of_all(flag: bool) -> bool:
  """Returns whether the flag is true in any process, the same in all."""
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def sum_of_all(counts: Mapping[str, int]) -> dict[str, int]:
  """Returns the sum of each count over the processes.

  A process may leave out a count of 0.
  """
  if jax.process_count() == 1:
    return dict(counts)
  from jax._src import distributed  # The store behind jax.distributed.

  client = distributed.global_state.client
  place = f"rlaif_jax/sums/{next(_SUMS)}"
  client.key_value_set(f"{place}/{jax.process_index()}", json.dumps(counts))
  total: dict[str, int] = {}
  for index in range(jax.process_count()):
    found = client.blocking_key_value_get(f"{place}/{index}", 600_000)
    for name, number in json.loads(found).items():
      total[name] = total.get(name, 0) + number
  return total


def is_time_to_stop(step: int, asked: bool) -> bool:
  """Returns whether all processes stop after this step.

  A process that is asked to stop (SIGTERM) names a later step, which no process
  has passed, since all exchange gradients in every step. Costs a request to
  process 0, and no wait for the devices.

  Args:
    step: the current step.
    asked: whether this process is asked to stop.
  """
  if jax.process_count() == 1:
    return asked
  from jax._src import distributed  # The store behind jax.distributed.

  client = distributed.global_state.client
  if asked:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # Named already.
      client.key_value_set(_STOP, str(step + _LEAD))
  try:
    return step >= int(client.key_value_try_get(_STOP))
  except jax.errors.JaxRuntimeError:  # No process was asked.
    return False


def to_host(tree: Any) -> Any:
  """Returns global arrays as whole NumPy arrays, in every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  from jax.experimental import multihost_utils

  return jax.tree.map(
    lambda x: np.asarray(multihost_utils.process_allgather(x, tiled=True)), tree
  )
