# SPDX-License-Identifier: Apache-2.0
"""Several processes as one program: how they meet, who writes, when they stop.

Each process runs the same job on its own devices; arrays are global. The
processes meet before JAX does, so that one that does not come has a name.
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

# JAX ends a process whose peers are silent for so long.
HEARTBEAT_SECONDS = 30

# Where a stop is agreed on, and how many steps ahead.
_STOP = "rlaif_jax/stop"
_LEAD = 3

# Numbers of the sums that the processes have made together.
_SUMS = itertools.count()

# The processes meet at this port past JAX's own.
_PORT_OFFSET = 1

# Where JAX itself looks for the coordinator of a TPU slice.
_TPU_PORT = 8476

# What a machine with a TPU has one of.
_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """Which process this is, of how many, and where process 0 is found."""

  address: str  # host:port
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
        f"this is process {self.index} of {self.count}; it should be one from "
        "0 to the number less one"
      )


def group_of(environment: Mapping[str, str]) -> Group | None:
  """The group that the environment names; None where this process is alone.

  Explicitly by JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and
  JAX_PROCESS_ID; by GKE, which tells the hosts of a TPU slice
  TPU_WORKER_HOSTNAMES and TPU_WORKER_ID; or by Slurm, for `srun` with several
  tasks. See `group_of_tpu_vm` for TPU VMs.

  Raises:
    ValueError: only a part of it, or no numbers.
  """
  names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
  given = [environment.get(name, "") for name in names]
  if all(given):
    return _group(names, *given)
  if any(given):
    missing = [n for n, value in zip(names, given, strict=True) if not value]
    raise ValueError(
      f"the environment has a part of {', '.join(names)}; set {missing} too, "
      "or none of them"
    )
  hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
  if len(hosts) > 1:
    gke = ("TPU_WORKER_HOSTNAMES", "its length", "TPU_WORKER_ID")
    index = environment.get("TPU_WORKER_ID", "")
    return _group(gke, f"{hosts[0]}:{_TPU_PORT}", str(len(hosts)), index)
  if int(environment.get("SLURM_NTASKS", "1") or 1) < 2:
    return None
  if "SLURM_STEP_NODELIST" not in environment:
    return None  # An allocation, but no step of several tasks.
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
  """The hosts of this TPU VM's slice, from Google Cloud's metadata server.

  It is asked on machines that have a TPU alone: elsewhere it is not there.
  TPU_SKIP_MDS_QUERY keeps it from being asked, and GCE_METADATA_HOST names
  another one.
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
  except OSError:  # No TPU VM, or none that belongs to a slice.
    return None
  # Host names, or triples with the address at the end.
  first = endpoints[0].rpartition(":")[2]
  names = ("worker-network-endpoints", "its length", "agent-worker-number")
  return _group(names, f"{first}:{_TPU_PORT}", str(len(endpoints)), index)


def _group(names, address: str, count: str, index: str) -> Group:
  if not count.isdecimal() or not index.isdecimal():
    raise ValueError(
      f"{names[1]} is {count!r} and {names[2]} is {index!r}; both should be "
      "numbers"
    )
  return Group(address=address, count=int(count), index=int(index))


def _first_host(nodes: str) -> str:
  """The first name of a Slurm list such as node[003-007,9],other."""
  name, bracket, rest = nodes.partition("[")
  if not bracket or "," in name:
    return nodes.split(",")[0]
  first = rest.split("]")[0].split(",")[0].split("-")[0]
  return name + first


def start(timeout_seconds: float = 300.0) -> None:
  """Joins the other processes, where the environment names any.

  Raises:
    TimeoutError: some did not come; names them.
    ValueError: see `group_of`.
  """
  group = group_of(os.environ) or group_of_tpu_vm(os.environ)
  if group is None or group.count == 1:
    return
  meet(group, timeout_seconds)
  # Of the CPU; other devices have collectives of their own.
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


def meet(group: Group, timeout_seconds: float) -> None:
  """Waits until all processes are there.

  Raises:
    TimeoutError: names those that are not.
  """
  host, _, port = group.address.rpartition(":")
  place = (host.strip("[]"), int(port) + _PORT_OFFSET)
  until = time.monotonic() + timeout_seconds
  if group.index == 0:
    _gather(group, place[1], until, timeout_seconds)
  else:
    _report(group, place, until, timeout_seconds)


def _gather(group: Group, port: int, until: float, seconds: float) -> None:
  """Process 0: takes the others' names, then lets all of them go on."""
  came: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(socket.create_server(("", port)))
    while len(came) < group.count - 1:
      server.settimeout(max(0.01, until - time.monotonic()))
      try:
        peer, _ = server.accept()
        stack.enter_context(peer)
        peer.settimeout(5.0)
        said = json.loads(peer.makefile("rb").readline(4096))
      except TimeoutError:
        if time.monotonic() < until:
          continue  # One that connected and said nothing.
        missing = sorted(set(range(1, group.count)) - set(came))
        raise TimeoutError(
          f"process(es) {missing} of {group.count} did not come within "
          f"{seconds:.0f} s; see their logs, or start the job again on all "
          "hosts"
        ) from None
      except (OSError, ValueError):
        continue  # A port scan, or a process that was killed.
      if said.get("count") == group.count and 0 < said["index"] < group.count:
        came[said["index"]] = peer
    for peer in came.values():
      peer.sendall(b"go\n")


def _report(group: Group, place, until: float, seconds: float) -> None:
  """Any other process: tells its number and waits for the word."""
  said = json.dumps({"index": group.index, "count": group.count}) + "\n"
  while time.monotonic() < until:
    with contextlib.suppress(OSError):
      with socket.create_connection(place, timeout=5.0) as peer:
        peer.sendall(said.encode())
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
  """Whether this process writes what there is once: results, logs, metrics."""
  return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Ends this process when another one has gone, and says what to do.

  At once: JAX would wait for those that are not there any more.
  """
  try:
    yield
  except (RuntimeError, ValueError, OSError) as error:
    if jax.process_count() == 1 or not _is_of_the_network(error):
      raise
    said = " ".join(str(error).split())[:300]
    sys.stderr.write(
      f"error: process {jax.process_index()} of {jax.process_count()} has lost "
      f"another one ({said}). See the other processes' logs; started again on "
      "all hosts, the same command continues from the last checkpoint\n"
    )
    sys.stderr.flush()
    os._exit(1)


def _is_of_the_network(error: BaseException | None) -> bool:
  """Whether an error, or what it came from, is a failed collective."""
  while error is not None:
    if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def wait_for_all(name: str) -> None:
  """No process goes on before all are here; nothing with one process."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def any_of_all(flag: bool) -> bool:
  """Whether it is true in any process; all get the same answer."""
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def sum_of_all(counts: Mapping[str, int]) -> dict[str, int]:
  """The sum over the processes of each number; all have the same names.

  A process without any number, which had nothing to count, adds nothing.
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
  """Whether all processes stop after this step.

  One that is asked to (SIGTERM) names a step that none has passed yet: the
  processes exchange gradients in every step, so they are close. Costs a
  question to process 0, and no wait for the devices.
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
  except jax.errors.JaxRuntimeError:  # Nobody was asked.
    return False


def to_host(tree: Any) -> Any:
  """Global arrays as NumPy arrays, whole in every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  from jax.experimental import multihost_utils

  return jax.tree.map(
    lambda x: np.asarray(multihost_utils.process_allgather(x, tiled=True)), tree
  )
